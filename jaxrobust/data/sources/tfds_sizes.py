"""The sizes of TensorFlow Datasets sets, as far as these or their documentation tell without a download."""

import contextlib

import numpy as np

from jaxrobust.data.checks import checked_labels
from jaxrobust.data.sources import DESCRIBE, Request, Size
from jaxrobust.errors import FieldError

# What TFDS knows about its sets only after they were prepared, or not at all on a machine without TensorFlow:
# image shape (None where sizes vary), classes, training examples; those of each class where the classes differ in size.
# From their documentation.
_KNOWN = {
    "cifar10": Size((32, 32, 3), 10, 50_000),
    "cifar100": Size((32, 32, 3), 100, 50_000),
    "fashion_mnist": Size((28, 28, 1), 10, 60_000),
    "imagenet2012": Size((None, None, 3), 1000, 1_281_167),
    "imagenet_resized/32x32": Size((32, 32, 3), 1000, 1_281_167),
    "imagenet_resized/64x64": Size((64, 64, 3), 1000, 1_281_167),
    "mnist": Size((28, 28, 1), 10, 60_000, np.array([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])),
    "svhn_cropped": Size(
        (32, 32, 3), 10, 73_257, np.array([4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659])
    ),
}


def size(request: Request) -> Size:
    """See `Source.size`; labels are read if they have to be counted and the set is prepared."""
    shape, classes, examples, counts, _ = _KNOWN.get(
        request.argument.partition(":")[0], Size((None, None, None), None, None)
    )
    with contextlib.suppress(ImportError):
        from jaxrobust.data.sources import tfds

        # A prepared set contains its own description.
        shape, classes, prepared_examples = tfds.describe(request.argument, request.data_dir)
        examples = prepared_examples or examples
        if request.counted:
            labels = tfds.train_labels(request.argument, request.data_dir, request.streaming, request.progress)
            if labels is not None:
                labels = checked_labels(labels, classes, "training", "data.name", request.name)
                counts = np.bincount(labels, minlength=classes)
    if classes is None:
        problem = "is unknown without TensorFlow Datasets, which is not installed"
        raise FieldError("data.name", request.name, problem, DESCRIBE)
    return Size(shape, classes, examples, counts if request.counted else None)
