"""Shared by benchmark and preflight: --images and --classes, which describe a data set that is not there."""

import re

from jaxrobust.errors import FieldError


def add_arguments(parser) -> None:
    text = "size of a data set nothing is known of, as 50000x32x32x3"
    parser.add_argument("--images", metavar="NxHxWxC", help=text)
    parser.add_number("--classes", int, 2, "its number of classes", most=10**6)


def given(options) -> dict:
    """The arguments `images` and `num_classes` of `data.describe`."""
    if options.images is None:
        return {"num_classes": options.classes}
    if not re.fullmatch(r"[1-9]\d{0,9}(x[1-9]\d{0,4}){3}", options.images):
        remedy = "write examples, height, width and channels, for example 50000x32x32x3"
        raise FieldError("--images", options.images, "is no size of a data set", remedy)
    return {"images": tuple(map(int, options.images.split("x"))), "num_classes": options.classes}
