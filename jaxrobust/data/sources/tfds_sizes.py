"""The sizes of TensorFlow Datasets sets, as far as these or their documentation tell without a download."""

import contextlib

import numpy as np

from jaxrobust.data.checks import checked_labels
from jaxrobust.data.sources import DESCRIBE, Request, Size
from jaxrobust.errors import FieldError

# What TFDS knows about its sets only after they were prepared, or not at all on a machine without TensorFlow:
# image shape (None where sizes vary), classes, training examples. From their documentation.
_KNOWN = {
    "cifar10": ((32, 32, 3), 10, 50_000),
    "cifar100": ((32, 32, 3), 100, 50_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000),
    "imagenet2012": ((None, None, 3), 1000, 1_281_167),
    "imagenet_resized/32x32": ((32, 32, 3), 1000, 1_281_167),
    "imagenet_resized/64x64": ((64, 64, 3), 1000, 1_281_167),
    "mnist": ((28, 28, 1), 10, 60_000),
    "svhn_cropped": ((32, 32, 3), 10, 73_257),
}
# Training examples of each class, for the sets whose classes differ in size.
_KNOWN_COUNTS = {
    "mnist": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    "svhn_cropped": (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
}


def size(request: Request) -> Size:
    """See `Source.size`; labels are read if they have to be counted and the set is prepared.

    Raises:
        FieldError: nothing is known about the set.
    """
    known_name = request.argument.partition(":")[0]
    shape, classes, examples = _KNOWN.get(known_name, ((None, None, None), None, None))
    counts = _KNOWN_COUNTS.get(known_name)
    counts = None if counts is None else np.array(counts)
    with contextlib.suppress(ImportError):
        from jaxrobust.data.sources import tfds

        # A prepared set contains its own description.
        shape, classes, prepared_examples = tfds.describe(request.argument, request.data_dir)
        examples = prepared_examples or examples
        if request.counted:
            labels = tfds.train_labels(request.argument, request.data_dir, request.streaming, request.progress)
            if labels is not None:
                counts = np.bincount(checked_labels(labels, classes, request.name, "training"), minlength=classes)
    if classes is None:
        raise FieldError(
            "data.name", request.name, "is unknown without TensorFlow Datasets, which is not installed", DESCRIBE
        )
    return Size(shape, classes, examples, counts if request.counted else None)
