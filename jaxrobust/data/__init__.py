"""Image classification data: `load("tfds:cifar10")` gives checked train, validation and test splits.

The rest of the package sees only a `Dataset`. It holds numpy arrays, or, for sets that do not fit in memory, objects
that represent such arrays (`encoded`); `streaming` then makes the training batches. `sources` reads the data, with one
file for each form of the name; `checks` validates it, in the same way for every source. TensorFlow is imported only by
the `tfds:` source and where streamed images are decoded, and only when they read.

    data = load("digits", validation_per_class=10, seed=0)
    data.train.images     # [N, 8, 8, 1] uint8
    data.train.counts(data.num_classes)
"""

import functools
from collections.abc import Callable, Sequence

from jaxrobust.data import checks, classes, imbalance, randomness, shrinking, sources, splits
from jaxrobust.data.dataset import Dataset, Split
from jaxrobust.data.describe import Description, describe, described, is_there, random_dataset
from jaxrobust.data.sources import Gaussians, check_name, check_streaming
from jaxrobust.errors import as_names, number, one_of

__all__ = [
    "Dataset",
    "Description",
    "Gaussians",
    "Split",
    "check_name",
    "check_streaming",
    "describe",
    "described",
    "is_there",
    "load",
    "random_dataset",
]


def load(
    name: str,
    *,
    data_dir: str = "",
    validation_per_class: int = 0,
    seed: int = 0,
    gaussians: Gaussians | None = None,
    streaming: bool = False,
    image_size: int = 0,
    imbalance_profile: str = "none",
    imbalance_ratio: float = 1.0,
    drop: Sequence[str] = (),
    merge: Sequence[str] = (),
    shares: Sequence[str] = (),
    progress: Callable = sources.no_progress,
) -> Dataset:
    """Reads and checks a data set, holds out a validation split, and makes the remaining training set long-tailed.

    Args:
        name: `digits`, `tfds:NAME`, `arrays:FILE.npz`, `folder:DIR` or `gaussians`; see `sources`.
        data_dir: folder of prepared TFDS data sets; empty: `TFDS_DATA_DIR`, else TFDS's own default.
        validation_per_class: examples of every class to move from train to validation.
        seed: selects the validation examples, those of a long-tailed set, and, for `gaussians`, the draw. The test
            split of `digits` is fixed.
        gaussians: the mixture to draw from, for the name `gaussians`.
        streaming: leave the images in their files until they are needed; only for `tfds:` and `folder:`.
        image_size: height and width that images are resized to, by `pixels` if streamed and otherwise by `shrinking`;
            0 leaves them as they are.
        imbalance_profile, imbalance_ratio: of the training set after the validation split is taken, see `imbalance`.
        drop, merge: classes to leave out or to join, see `classes.regroup`; done before the following steps.
        shares: of the training images of classes to keep, see `classes.thinned`; done last.
        progress: (title, total, unit) -> context that gives advance(amount): shows the first reading of labels to
            stream.

    Raises:
        FieldError: an argument is not what it should be, or the data that `name` names cannot be used.
    """
    validation_per_class = number("data.validation_per_class", validation_per_class, 0, 10**9, kind=int)
    image_size = number("data.image_size", image_size, 0, 4096, kind=int)
    seed = number("data.seed", seed, 0, 2**32 - 1, kind=int)
    one_of("data.imbalance", imbalance_profile, imbalance.PROFILES)
    imbalance_ratio = number("data.imbalance_ratio", imbalance_ratio, 1e-9, 1)
    drop, merge, shares = map(as_names, ("data.drop", "data.merge", "data.shares"), (drop, merge, shares))
    check_streaming(name, streaming)
    form, argument = check_name(name)
    source = sources.SOURCES[form]
    request = sources.Request(name, argument, data_dir, seed, gaussians, streaming, image_size, progress)
    raw = source.stream(request) if streaming else source.read(request)
    class_names, train, test = checks.checked(raw, name)
    if not streaming:
        train, test = (shrinking.shrunk(split, image_size) for split in (train, test))
    skipped = raw.skipped
    if drop or merge:
        class_names, new_label = classes.regroup(class_names, drop, merge)
        train, test = (classes.relabelled(split, new_label) for split in (train, test))
        skipped = classes.regrouped_counts(skipped, new_label)
    draws = functools.partial(randomness.generator, seed)
    train, validation = splits.hold_out(train, validation_per_class, class_names, draws("validation"))
    train = imbalance.subset(train, class_names, imbalance_profile, imbalance_ratio, draws("imbalance"))
    train = classes.thinned(train, class_names, shares, draws("shares"))
    if skipped:
        lost = [any(map(checks.may_be_images, of)) for of in skipped]
        class_names = tuple(n + checks.LOST_MARK * is_lost for n, is_lost in zip(class_names, lost, strict=True))
    return Dataset(name, class_names, train, validation, test, tuple(map(checks.skipped_text, skipped)))
