"""Figures of images; style: figures/__init__.py."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxrobust.figures import INK, WORST, shorten, styled
from jaxrobust.formatting import NO_CLASS


@styled
def adversarial_images(images, adversarial, labels, predictions, class_names: Sequence[str]) -> Figure:
    """Columns of image, adversarial image and perturbation; the perturbation is scaled to span the grey range.

    Args:
        images: [N, H, W, C] in [0, 1]; of other than three channels the mean is shown.
        adversarial: like `images`.
        labels: true classes [N], named above the images.
        predictions: predicted classes of the adversarial images [N], -1 for none, named above them; in colour where
            they are wrong.
        class_names: C names.
    """
    images, adversarial = (np.asarray(values, float) for values in (images, adversarial))
    if images.shape[-1] != 3:
        images, adversarial = images.mean(-1), adversarial.mean(-1)
    difference = adversarial - images
    scale = 0.5 / max(np.abs(difference).max(), 1e-12)
    rows = (images, adversarial, 0.5 + scale * difference)
    changed = np.abs(difference).max() > 0
    last_row = f"{scale:.3g} x difference" if changed else "no difference"
    figure = Figure(figsize=(0.35 + 1.05 * len(images), 3.9), layout="constrained")
    grid = figure.subplots(3, len(images), squeeze=False)
    for axes_row, pictures, row_name in zip(grid, rows, ("image", "adversarial", last_row), strict=True):
        for axes, picture in zip(axes_row, pictures, strict=True):
            axes.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        axes_row[0].set_ylabel(row_name, fontsize=8)
    for column, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        grid[0, column].set_title(shorten(class_names[label], 13), fontsize=7, loc="center")
        colour = INK if label == prediction else WORST
        name = NO_CLASS if prediction < 0 else class_names[prediction]
        grid[1, column].set_title(shorten(name, 13), fontsize=7, loc="center", color=colour)
    return figure
