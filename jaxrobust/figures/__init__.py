"""Figures of class-wise robustness, each a function from plain arrays to a matplotlib `Figure`.

    figure = class_bars(names, {"clean": (accuracy, low, high), "pgd20": (accuracy, low, high)})
    to_svg(figure)  # for a page: follows its light or dark theme through CSS variables
    to_rgb(figure)  # for TensorBoard

No pyplot, so no global state and no display. Accuracies are fractions in [0, 1], shown as percentages. Any number of
classes is readable: up to `NAMED_CLASSES` each is named; beyond, the figure shows all of them by rank and names
the worst and the best. Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

import functools
import hashlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

NAMED_CLASSES = 30  # most classes that a figure names one by one
NUMBERED_CELLS = 14  # most classes for which the cells of a confusion matrix hold numbers
MATRIX_CELLS = 200  # most rows of a confusion matrix that are drawn one by one
VECTOR_CLASSES = 200  # most classes whose marks stay vector graphics; pixels are smaller beyond
EXTREMES = 10  # classes named at each end when not all are
NAME_LENGTH = 24  # characters; longer class names lose their middle

INK, MUTED, GRID = "#1f2329", "#6b727d", "#dfe2e7"
BLUE, VERMILION = "#0072b2", "#d55e00"
PAPER = "#fefefe"  # inside of hollow marks; not quite the white of numbers on dark cells, which must stay white
# In an SVG these become CSS variables, so that a dark page can lighten them.
THEMED = {
    INK: "--figure-ink",
    MUTED: "--figure-muted",
    GRID: "--figure-grid",
    BLUE: "--figure-blue",
    VERMILION: "--figure-vermilion",
    PAPER: "--figure-paper",
}
WORST, BEST = VERMILION, BLUE
CLEAN = "#9aa3af"
ATTACKS = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],  # the first is also what layouts are measured with
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5"
    "text.usetex": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.linewidth": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "figure.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: searchable, and in any script that the reader's fonts know
    "svg.hashsalt": "jaxrobust",  # the same figure gives the same ids
}


class Curve(NamedTuple):
    """Accuracy over training under one attack. Each field is a vector with one entry per checkpoint."""

    epoch: Sequence[float]
    average: Sequence[float]
    worst: Sequence[float]


def styled(draw):
    """Runs `draw` under this module's style, whatever the user's matplotlib settings."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            # Names in scripts that matplotlib's font lacks: the browser has a font for them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **kwargs)

    return wrapped


@styled
def class_bars(class_names: Sequence[str], series: Mapping[str, tuple], title: str = "", sort: bool = True) -> Figure:
    """Accuracy of each class under each attack, with intervals.

    Classes without accuracy (nan) are left out.

    Args:
        class_names: C names.
        series: attack -> (accuracy [C], low [C], high [C]).
        title: one line.
        sort: lowest accuracy under the strongest attack (the one with the lowest mean) on top; else the given order.
    """
    series = {attack: np.asarray(values, float) for attack, values in series.items()}
    strongest = min(series, key=lambda attack: _mean(series[attack][0]))
    present = np.flatnonzero(~np.isnan(series[strongest][0]))
    if sort or present.size > NAMED_CLASSES:
        present = present[np.argsort(series[strongest][0][present], kind="stable")]
    colours = attack_colours(series)

    if present.size <= NAMED_CLASSES:
        bar_inches = max(0.24, 0.13 * len(series))
        figure = Figure(figsize=(7.2, 1.0 + bar_inches * 1.25 * present.size), layout="constrained")
        axes = figure.subplots()
        _draw_bars(axes, class_names, series, present, colours)
        axes.set_title(title)
    else:
        figure = Figure(figsize=(7.2, 4.6), layout="constrained")
        axes, *ends = [figure.add_subplot(spec) for spec in _rank_and_two_ends(figure)]
        ranks = np.arange(1, present.size + 1)
        for attack, (accuracy, low, high) in series.items():
            if attack == strongest:
                axes.fill_between(ranks, low[present], high[present], color=colours[attack], alpha=0.2, linewidth=0)
                axes.plot(ranks, accuracy[present], color=colours[attack])
            else:
                crowded = present.size > VECTOR_CLASSES
                size = 1.5 if crowded else 3
                axes.plot(
                    ranks, accuracy[present], ".", color=colours[attack], markersize=size, alpha=0.7, rasterized=crowded
                )
        axes.set(xlim=(1, present.size), xlabel=f"all {present.size} classes, by accuracy under {strongest}")
        _percent(axes.yaxis, axes.set_ylim)
        axes.set_title(title)
        only_strongest = {strongest: series[strongest]}
        for end, chosen, name in zip(ends, (present[:EXTREMES], present[-EXTREMES:]), ("worst", "best"), strict=True):
            _draw_bars(end, class_names, only_strongest, chosen, colours)
            end.set_title(f"{name} {chosen.size}")
    figure.legend(
        handles=[Line2D([], [], color=colours[attack], linewidth=5, label=attack) for attack in series],
        loc="outside lower center",
        ncols=min(len(series), 6),
    )
    return figure


def _rank_and_two_ends(figure: Figure) -> list:
    """A wide panel for all classes, and two stacked beside it for the worst and the best."""
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1))
    return [grid[:, 0], grid[0, 1], grid[1, 1]]


def _draw_bars(axes, class_names, series, classes, colours):
    """Horizontal bars of `classes` (indices), first on top, one per attack, with interval whiskers."""
    thickness = 0.8 / len(series)
    for i, (attack, (accuracy, low, high)) in enumerate(series.items()):
        position = np.arange(classes.size) + (i - (len(series) - 1) / 2) * thickness
        width = accuracy[classes]
        error = np.maximum([width - low[classes], high[classes] - width], 0)  # rounding can leave -1e-17
        axes.barh(position, width, 0.9 * thickness, color=colours[attack], label=attack)
        axes.errorbar(width, position, xerr=error, fmt="none", ecolor=INK, elinewidth=0.8)
    axes.set_yticks(np.arange(classes.size), [shorten(class_names[c]) for c in classes], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(classes.size - 0.4, -0.6)
    axes.grid(axis="x")
    _percent(axes.xaxis, axes.set_xlim)


@styled
def confusion_matrix(matrix, class_names: Sequence[str], title: str = "") -> Figure:
    """Share of each true class (row) that is predicted as each class (column).

    Up to `NUMBERED_CELLS` classes the cells hold percentages; beyond `NAMED_CLASSES`, rows and columns are
    ordered by accuracy and only ranks are marked. Rows without examples stay empty.

    Args:
        matrix: counts [C, C], rows are true classes.
        class_names: C names.
        title: one line.
    """
    matrix = np.asarray(matrix, float)
    total = matrix.sum(1, keepdims=True)
    rate = np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
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
    image = axes.imshow(rate, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    if num_classes <= NUMBERED_CELLS:
        for row, column in zip(*np.nonzero(rate >= 0.005), strict=True):
            value = rate[row, column]
            colour = "#ffffff" if value > 0.35 else "#14181f"
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_title(title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, ticks=(0, 0.01, 0.05, 0.2, 0.5, 1))
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bar.ax.tick_params(labelsize=7)
    bar.set_label("share of the true class", fontsize=8)
    bar.outline.set_visible(False)
    return figure


def _pooled(matrix: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Largest entry of each block, with blocks as small as `most` rows allow, and their side.

    The maximum, not the mean: what matters in a large confusion matrix are its isolated high entries.
    """
    side = -(-len(matrix) // most)
    padding = -len(matrix) % side
    blocks = np.pad(np.nan_to_num(matrix), ((0, padding), (0, padding)))
    blocks = blocks.reshape(len(blocks) // side, side, -1, side)
    return blocks.max((1, 3)), side


@styled
def learning_curves(
    curves: Mapping[str, Mapping[str, Curve]], title: str = "", selected_epoch: float | None = None
) -> Figure:
    """Average and worst class accuracy over the epochs.

    Args:
        curves: attack -> kind -> Curve, where the kind is 'raw' or 'averaged' (weights), or 'training' for
            figures that come from the training batches.
        title: one line.
        selected_epoch: epoch of the selected checkpoint, marked by a vertical line.
    """
    lines = {"averaged": "-", "raw": "--", "training": ":"}
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    measured = [attack for attack, kinds in curves.items() if set(kinds) - {"training"}]
    colours = attack_colours(measured)
    for axes, figure_name, label in zip(panels, ("average", "worst"), ("average", "worst class"), strict=True):
        for attack, kinds in curves.items():
            for kind, curve in kinds.items():
                colour = MUTED if kind == "training" else colours[attack]
                # A dot per checkpoint shows where the measurements are, and a run with only one of them.
                dots = {"marker": "o", "markersize": 2.5} if kind != "training" else {"linewidth": 1}
                axes.plot(curve.epoch, getattr(curve, figure_name), linestyle=lines[kind], color=colour, **dots)
        if selected_epoch is not None:
            axes.axvline(selected_epoch, color=MUTED, linewidth=0.8, zorder=0)
        axes.set_title(label)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.grid(axis="y")
    _percent(panels[0].yaxis, panels[0].set_ylim)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    kinds = {kind for of_attack in curves.values() for kind in of_attack}
    handles = [Line2D([], [], color=colours[attack], linewidth=4, label=attack) for attack in measured]
    handles += [
        Line2D([], [], color=INK, linestyle=lines[kind], label=f"{kind} weights")
        for kind in ("averaged", "raw")
        if kind in kinds
    ]
    if "training" in kinds:
        handles.append(Line2D([], [], color=MUTED, linestyle=lines["training"], label="training batches"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), fontsize=8)
    return figure


@styled
def class_curves(
    epoch, accuracy, class_names: Sequence[str], title: str = "", selected_epoch: float | None = None
) -> Figure:
    """Accuracy of each class over the checkpoints, worst and best ones of the last checkpoint in colour.

    Up to `NAMED_CLASSES` classes are all named at the ends of their lines; beyond, only the coloured ones.

    Args:
        epoch: [T].
        accuracy: [T, C]; nan for a class without examples.
        class_names: C names.
        title: one line.
        selected_epoch: epoch of the selected checkpoint, marked by a vertical line.
    """
    epoch, accuracy = np.asarray(epoch, float), np.asarray(accuracy, float)
    last = accuracy[-1]
    ranked = [c for c in np.argsort(last, kind="stable") if not np.isnan(last[c])]
    extremes = min(3 if len(ranked) <= NAMED_CLASSES else EXTREMES // 2, len(ranked) // 2)
    coloured = {c: WORST for c in ranked[:extremes]} | {c: BEST for c in ranked[len(ranked) - extremes :]}
    named = ranked if len(ranked) <= NAMED_CLASSES else list(coloured)
    grey = [c for c in ranked if c not in coloured]

    # The layout is set by hand: labels need the axes' height to keep apart, and the width that they take.
    font_size, names = 8, [shorten(class_names[c]) for c in named]
    width, height = 7.2, max(3.6, 0.16 * len(named) + 1.0)
    left, bottom, top, gap = 0.6, 0.5, 0.35, 0.35
    right = gap + max((text_inches(name, font_size) for name in names), default=0) + 0.1
    figure = Figure(figsize=(width, height))
    axes_height = height - bottom - top
    axes = figure.add_axes(
        (left / width, bottom / height, (width - left - right) / width, axes_height / height), title=title
    )

    # The more lines, the fainter each, so that their density shows.
    axes.add_collection(
        LineCollection(
            [np.column_stack([epoch, accuracy[:, c]]) for c in grey],
            colors=CLEAN,
            linewidths=1.0 if len(grey) <= NAMED_CLASSES else 0.5,
            alpha=float(np.clip(40 / max(len(grey), 1), 0.1, 0.9)),
            rasterized=len(grey) > VECTOR_CLASSES,
        )
    )
    for c, colour in coloured.items():
        axes.plot(epoch, accuracy[:, c], color=colour)
    if len(epoch) == 1:
        axes.scatter(np.repeat(epoch, len(ranked)), last[ranked], s=9, color=[coloured.get(c, CLEAN) for c in ranked])
    if selected_epoch is not None:
        axes.axvline(selected_epoch, color=MUTED, linewidth=0.8, zorder=0)
    axes.set_xlim(epoch.min() - (len(epoch) == 1), epoch.max() + (len(epoch) == 1))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    _percent(axes.yaxis, axes.set_ylim)

    line_height = 1.25 * font_size / 72 / axes_height  # of a label, as a share of the axes
    at = spread(last[named], line_height, 0, 1)
    axes_width = width - left - right
    inside = (epoch.max() - axes.get_xlim()[0]) / np.ptp(axes.get_xlim())
    for c, name, y in zip(named, names, at, strict=True):
        colour = coloured.get(c)
        stop = 1 + (gap - 0.06) / axes_width
        axes.plot(
            [inside, 1 + 0.06 / axes_width, stop],
            [last[c], y, y],
            transform=axes.transAxes,
            color=colour or CLEAN,
            linewidth=0.5,
            clip_on=False,
        )
        at_end = {"transform": axes.transAxes, "va": "center", "fontsize": font_size}
        axes.text(1 + gap / axes_width, y, name, color=colour or INK, **at_end)
    return figure


def spread(positions, distance: float, low: float, high: float) -> np.ndarray:
    """The positions nearest to `positions` (ascending) that are at least `distance` apart, within [low, high].

    Least squares: after subtracting i * distance the task is isotonic regression, solved by pooling neighbours.
    If they cannot all fit, they are spaced evenly and overlap.
    """
    positions = np.asarray(positions, float)
    if positions.size > 1:
        distance = min(distance, (high - low) / (positions.size - 1))
    offset = distance * np.arange(positions.size)
    blocks = []  # (mean, size)
    for value in positions - offset:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean_b, size_b), (mean_a, size_a) = blocks.pop(), blocks.pop()
            blocks.append(((mean_a * size_a + mean_b * size_b) / (size_a + size_b), size_a + size_b))
    free = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks]) if blocks else positions
    return np.clip(free, low, high - (offset[-1] if offset.size else 0)) + offset


@styled
def adversarial_images(images, adversarial, labels, predictions, class_names: Sequence[str]) -> Figure:
    """Columns of image, adversarial image and perturbation; the perturbation is scaled to span the grey range.

    Args:
        images: [N, H, W, C] in [0, 1]; of other than three channels the mean is shown.
        adversarial: like `images`.
        labels: true classes [N], named above the images.
        predictions: predicted classes of the adversarial images [N], named above them; in colour where they are wrong.
        class_names: C names.
    """
    images, adversarial = (_pictures(np.asarray(values, float)) for values in (images, adversarial))
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
        grid[1, column].set_title(shorten(class_names[prediction], 13), fontsize=7, loc="center", color=colour)
    return figure


def _pictures(images: np.ndarray) -> np.ndarray:
    """What can be shown of images [N, H, W, C]: colours, or [N, H, W] grey."""
    return images if images.shape[-1] == 3 else images.mean(-1)


def attack_colours(attacks) -> dict[str, str]:
    """A colour per attack, in their order: grey for clean, then the palette, which repeats after six."""
    attacked = [attack for attack in attacks if attack != "clean"]
    return {"clean": CLEAN} | {attack: ATTACKS[i % len(ATTACKS)] for i, attack in enumerate(attacked)}


def shorten(name: str, length: int = NAME_LENGTH) -> str:
    """`name` on one line, with its middle replaced by an ellipsis if longer than `length`.

    The middle, because names of related classes often share a beginning.
    """
    name = " ".join("".join(c if c.isprintable() else " " for c in str(name)).split())
    if len(name) <= length:
        return name
    head = length // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


@styled
def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element for use inside HTML.

    Ids are unique to the figure, so several can share a page. The background is transparent, and the colours in
    `THEMED` are CSS variables that a page may set; without them the figure is made for a light one. The same figure
    gives the same text.
    """
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # an XML declaration and a doctype do not belong inside HTML
    svg = _without_style(svg)
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    # Only inside tags: a class name in the text between them stays as it is.
    return re.sub(r"<[^>]*>", lambda tag: _adapted(tag[0], prefix), svg)


def _without_style(svg: str) -> str:
    """Its one style sheet, `*{declarations}`, as an attribute of the root: inside HTML it would hold for the page."""
    sheet = re.search(r"<defs>\s*<style[^>]*>\*{([^}]*)}</style>\s*</defs>\s*", svg)
    return svg.replace(sheet[0], "", 1).replace("<svg", f'<svg style="{sheet[1]}"', 1)


def _adapted(tag: str, prefix: str) -> str:
    """One SVG tag with its ids prefixed and its neutral colours replaced by CSS variables."""
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", tag)
    for colour, variable in THEMED.items():
        tag = tag.replace(colour, f"var({variable}, {colour})")
    return tag


@styled
def to_rgb(figure: Figure) -> np.ndarray:
    """The figure as pixels on white, uint8 [H, W, 3]."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _percent(axis, set_limits):
    """Shows fractions as percentages, from 0 to 100."""
    set_limits(0, 1)
    axis.set_major_locator(MultipleLocator(0.2))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _mean(values) -> float:
    """Mean without nan; infinite if there is nothing else."""
    values = values[~np.isnan(values)]
    return values.mean() if values.size else np.inf


def text_inches(text: str, font_size: float) -> float:
    """Width of a line of text."""
    return TextPath((0, 0), text, size=font_size).get_extents().width / 72 if text else 0
