"""Images and labels from one .npz file."""

import os
import zipfile

import numpy as np

from jaxrobust.data.checks import RawDataset
from jaxrobust.data.dataset import Split
from jaxrobust.errors import FieldError

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def read(file: str) -> RawDataset:
    """Reads train_images, train_labels, test_images, test_labels and the optional class_names.

    Images are [N, H, W] or [N, H, W, C], uint8 or float in [0, 1]. Without class_names, classes are called by their
    labels. Further arrays in the file are not read.

    Raises:
        FieldError: there is no such file, or it lacks an array.
    """
    name = f"arrays:{file}"
    try:
        with np.load(os.path.expanduser(file), allow_pickle=False) as arrays:
            if missing := [key for key in _KEYS if key not in arrays]:
                remedy = f"write it with np.savez({', '.join(_KEYS)})"
                raise FieldError("data.name", name, f"has no array {missing[0]!r}", remedy)
            train_images, train_labels, test_images, test_labels = (arrays[key] for key in _KEYS)
            class_names = arrays.get("class_names")
    except FileNotFoundError as error:
        raise FieldError("data.name", name, "there is no such file", "write the path of an .npz file") from error
    # TypeError and AttributeError: an .npy file loads as an array, which is not a context manager.
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        problem = f"cannot be read as an .npz file of plain arrays ({error})"
        raise FieldError("data.name", name, problem, "write it with np.savez, without Python objects") from error
    if class_names is None:  # up to the largest training label, but not more than there are training examples
        largest = int(train_labels.max()) if train_labels.size and train_labels.dtype.kind in "iu" else 1
        class_names = np.arange(max(2, min(largest + 1, train_labels.size)))
    names = (n.decode(errors="replace") if isinstance(n, bytes) else str(n) for n in class_names.ravel().tolist())
    train, test = (images[..., None] if images.ndim == 3 else images for images in (train_images, test_images))
    return RawDataset(tuple(names), Split(train, train_labels), Split(test, test_labels))
