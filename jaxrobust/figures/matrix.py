"""Matrices of classes or settings as heat maps; style: figures/__init__.py."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from jaxrobust.classwise.counts import ratio
from jaxrobust.figures import NAMED_CLASSES, percent_axis, shorten, styled

NUMBERED_CELLS = 14  # most classes for which the cells of a confusion matrix hold numbers
MATRIX_CELLS = 200  # most rows of a confusion matrix that are drawn one by one


@styled
def confusion_matrix(matrix, class_names: Sequence[str], title: str = "", count=None) -> Figure:
    """Share of each true class (row) that is predicted as each class (column).

    Up to `NUMBERED_CELLS` classes the cells hold percentages; beyond `NAMED_CLASSES`, rows and columns are
    ordered by accuracy and only ranks are marked. Rows without examples stay empty.

    Args:
        matrix: counts [C, C], rows are true classes.
        class_names: C names.
        title: one line.
        count: images of each class [C]; None: the sums of the rows, so that each has a prediction.
    """
    matrix = np.asarray(matrix, float)
    rate = ratio(matrix, matrix.sum(1, keepdims=True) if count is None else np.reshape(count, (-1, 1)))
    num_classes = len(rate)
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.subplots()

    if num_classes <= NAMED_CLASSES:
        names, size = [shorten(name, 18) for name in class_names], 8 if num_classes <= NUMBERED_CELLS else 6
        axes.set_xticks(range(num_classes), names, rotation=90, fontsize=size)
        axes.set_yticks(range(num_classes), names, fontsize=size)
        axes.set(xlabel="predicted class", ylabel="true class")
    else:
        order = np.argsort(np.diag(rate), kind="stable")  # nan, the classes without examples, come last
        rate, per_cell = _pooled(rate[np.ix_(order, order)], MATRIX_CELLS)
        ticks = np.unique(np.linspace(1, num_classes, 5).astype(int))
        axes.set_xticks((ticks - 1) // per_cell, ticks)
        axes.set_yticks((ticks - 1) // per_cell, ticks)
        block = f" (a cell is the largest of {per_cell} by {per_cell})" if per_cell > 1 else ""
        axes.set(xlabel=f"predicted class, same order{block}", ylabel="true class, lowest accuracy first")
    # The square root scale shows confusions of a few percent beside a diagonal near 100 %.
    image = heat_map(axes, rate, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    if num_classes <= NUMBERED_CELLS:
        cell_numbers(axes, rate, lambda share: f"{100 * share:.0f}" if share >= 0.005 else "", dark=0.35)
    axes.set_title(title)
    share_bar(figure, image)
    return figure


def heat_map(axes, values, **colours):
    """The cells of a matrix, without a frame around them; nan stays empty. Returns the image."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes.imshow(values, interpolation="nearest", **colours)


def cell_numbers(axes, values, text: Callable[[float], str], dark: float, fontsize: float = 7) -> None:
    """Write in the cells of a heat map.

    Args:
        values: [R, C]; nothing is written where they are nan.
        text: of a value, possibly empty.
        dark: size of a value above which its cell is so dark that its text is white.
    """
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value) and (written := text(value)):
            colour = "#ffffff" if abs(value) > dark else "#14181f"
            axes.text(column, row, written, ha="center", va="center", fontsize=fontsize, color=colour)


def colour_bar(figure: Figure, image, percent: bool = True, **layout):
    """What the colours of a heat map stand for, beside it, as percentages where they are fractions. Returns the bar."""
    bar = figure.colorbar(image, ax=image.axes, **layout)
    if percent:
        percent_axis(bar.ax.yaxis)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return bar


def share_bar(figure: Figure, image) -> None:
    """The colour bar of shares on the square root scale."""
    bar = colour_bar(figure, image, shrink=0.7, aspect=30, ticks=(0, 0.01, 0.05, 0.2, 0.5, 1))
    bar.set_label("share of the true class", fontsize=8)


def _pooled(matrix: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Largest entry of each block, with blocks as small as `most` rows allow, and their side."""
    # The maximum, not the mean: what matters in a large confusion matrix are its isolated high entries.
    side = -(-len(matrix) // most)
    padding = -len(matrix) % side
    blocks = np.pad(np.nan_to_num(matrix), ((0, padding), (0, padding)))
    blocks = blocks.reshape(len(blocks) // side, side, -1, side)
    return blocks.max((1, 3)), side
