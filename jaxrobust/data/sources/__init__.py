"""The sources of data. A name consists of a form and, for most forms, a colon and an argument:

    digits            scikit-learn's 1,797 handwritten digits, 8 x 8, bundled: runs anywhere
    tfds:NAME         any TensorFlow Datasets set with features `image` and `label`, for example tfds:cifar10
    arrays:FILE.npz   train_images, train_labels, test_images, test_labels and, if you like, class_names
    folder:DIR        DIR/train/CLASS/*.png and DIR/test/CLASS/*.png, or .jpg, .jpeg
    gaussians         two or more Gaussian classes, for which robustness has closed forms

A source returns a `RawDataset` without checking its contents, or raises FieldError if there is none; `checks` then
checks it. A new source is a module with `read` and a case below. `tfds` and `folder` can leave images in their files.
"""

import contextlib
import difflib
from collections.abc import Callable

from jaxrobust.data.checks import RawDataset
from jaxrobust.data.sources.gaussians import Gaussians
from jaxrobust.errors import FieldError

__all__ = ["Gaussians", "check_name", "check_streaming", "no_progress", "read", "stream"]

_FORMS = ("digits", "tfds:NAME", "arrays:FILE.npz", "folder:DIR", "gaussians")


def check_name(name: str) -> tuple[str, str]:
    """Splits a data set's name into (form, argument); imports and reads nothing.

    Raises:
        FieldError: the name has no known form.
    """
    form, colon, argument = name.partition(":")
    for known in _FORMS:
        known_form, known_colon, _ = known.partition(":")
        if (form, colon) == (known_form, known_colon) and bool(argument) == bool(colon):
            return form, argument
    near = difflib.get_close_matches(name, ("digits", "gaussians"), n=1)
    if not near and name.isidentifier():  # A bare name such as cifar10 is most likely one of TFDS.
        near = [f"tfds:{name}"]
    guess = f" (did you mean {near[0]}?)" if near else ""
    raise FieldError("data.name", name, "is not the name of a data set", f"use one of {', '.join(_FORMS)}{guess}")


def check_streaming(name: str, streaming: bool, image_size: int) -> None:
    """Raises FieldError unless the data set called `name` can be read this way; reads nothing."""
    form, _ = check_name(name)
    if streaming and form not in ("tfds", "folder"):
        remedy = "set data.streaming to False, or use tfds:NAME or folder:DIR"
        raise FieldError("data.streaming", True, f"{name!r} can only be read into memory", remedy)
    if image_size < 0:
        raise FieldError("data.image_size", image_size, "is negative", "use 0 for the size in the files")


def read(name: str, *, data_dir: str, seed: int, gaussians: Gaussians | None) -> RawDataset:
    """Reads the data set called `name`; the arguments are those of `jaxrobust.data.load`."""
    # Imported here, so that a source needs only its own dependencies; TensorFlow takes seconds to import.
    match check_name(name):
        case "digits", _:
            from jaxrobust.data.sources import digits

            return digits.read()
        case "tfds", tfds_name:
            from jaxrobust.data.sources import tfds

            return tfds.read(tfds_name, data_dir)
        case "arrays", file:
            from jaxrobust.data.sources import arrays

            return arrays.read(file)
        case "folder", folder_dir:
            from jaxrobust.data.sources import folder

            return folder.read(folder_dir)
        case "gaussians", _:
            if gaussians is None:
                raise FieldError("data.gaussians", None, "does not describe a mixture", "pass a Gaussians")
            from jaxrobust.data.sources.gaussians import read as read_gaussians

            return read_gaussians(gaussians, seed)


def no_progress(title: str, total: int, unit: str):
    """Shows nothing; has the interface of `console.progress`."""
    return contextlib.nullcontext(lambda amount: None)


def stream(name: str, *, data_dir: str, image_size: int, progress: Callable) -> RawDataset:
    """The data set called `name`, its images left in their files; the arguments are those of `jaxrobust.data.load`."""
    form, argument = check_name(name)
    if form == "folder":
        from jaxrobust.data.sources import folder

        return folder.stream(argument, image_size)
    from jaxrobust.data.sources import tfds

    return tfds.stream(argument, data_dir, image_size, progress)
