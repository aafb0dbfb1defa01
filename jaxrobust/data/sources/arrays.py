"""Images and labels from one .npz file."""

import os

import numpy as np

from jaxrobust import files
from jaxrobust.data.checks import RawDataset, classes_of
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def read(file: str) -> RawDataset:
    """Reads train_images, train_labels, test_images, test_labels and the optional class_names.

    Images are [N, H, W] or [N, H, W, C], uint8 or float in [0, 1]. Without class_names, classes are called by their
    labels. Further arrays in the file are not read, nor any that do not fit into this machine's memory.

    Raises:
        FieldError: there is no such file, or it lacks an array.
    """
    name = f"arrays:{file}"
    path = os.path.expanduser(file)
    if not os.path.isfile(path):
        raise FieldError("data.name", name, "there is no such file", "write the path of an .npz file")
    try:
        arrays = files.read_npz(path, (*_KEYS, "class_names"))
    except ValueError as error:
        problem = f"cannot be read as an .npz file of plain arrays ({error})"
        raise FieldError("data.name", name, problem, "write it with np.savez, without Python objects") from error
    if missing := [key for key in _KEYS if key not in arrays]:
        remedy = f"write it with np.savez({', '.join(_KEYS)})"
        raise FieldError("data.name", name, f"has no array {missing[0]!r}", remedy)
    train_images, train_labels, test_images, test_labels = (arrays[key] for key in _KEYS)
    class_names = arrays.get("class_names", np.arange(max(2, classes_of(train_labels))))
    names = (n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in class_names.ravel().tolist())
    train, test = (images[..., None] if images.ndim == 3 else images for images in (train_images, test_images))
    return RawDataset(tuple(names), Split(train, train_labels), Split(test, test_labels))
