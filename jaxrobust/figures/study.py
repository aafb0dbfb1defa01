"""Figures of a study; see `figures` for the conventions."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from jaxrobust import figures
from jaxrobust.figures import BLUE, INK, MUTED, NAMED_CLASSES, column, shorten, styled, text_inches
from jaxrobust.figures.matrix import NUMBERED_CELLS, cell_numbers, colour_bar, heat_map

NATURAL, ADVERSARIAL = MUTED, BLUE
NAMED_SETTINGS = 60  # most for which a matrix of settings has room for their names


def _distinct(names: Sequence[str], length: int) -> list[str]:
    """Shortened, but no further than they differ."""
    longest = max(map(len, names))
    while length < longest and len({shorten(name, length) for name in names}) < len(set(names)):
        length += 1
    return [shorten(name, length) for name in names]


@styled
def class_table(accuracy, settings: Sequence[str], class_names: Sequence[str], title: str = "") -> Figure:
    """Accuracy of each class in each setting, a row per setting; classes from the weakest on average to the strongest.

    Args:
        accuracy: [S, C], fractions.
        settings, class_names: S and C names. More than `NAMED_CLASSES` classes are not named.
    """
    accuracy = np.asarray(accuracy, float)
    order = accuracy.mean(0).argsort(kind="stable")
    accuracy, classes = accuracy[:, order], [class_names[c] for c in order]
    width = max(min(9.0, 2.8 + 0.45 * len(classes)), text_inches(title, 10) + 0.3)
    figure = Figure(figsize=(width, 1.3 + 0.24 * len(settings)), layout="constrained")
    axes = figure.subplots()
    image = heat_map(axes, accuracy, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(settings)), _distinct(settings, 40), fontsize=8)
    if len(classes) <= NAMED_CLASSES:
        names = [shorten(name, 14) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=45, ha="right", fontsize=8)
    else:
        axes.set_xlabel("classes, weakest on average first")
    if len(classes) <= NUMBERED_CELLS and len(settings) <= 60:
        cell_numbers(axes, accuracy, lambda fraction: f"{100 * fraction:.0f}", dark=0.6)
    figures.heading(figure, title)
    colour_bar(figure, image, shrink=0.8, aspect=25)
    return figure


@styled
def shares(of_variance: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> Figure:
    """What explains the accuracy of a class: a bar per component of variance, the largest first.

    Args:
        of_variance: name -> share of all variance.
        intervals: name -> (low, high); None where there is no end.
    """
    names = sorted(of_variance, key=lambda name: -of_variance[name])
    figure = Figure(figsize=(6.4, 0.8 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    values = [of_variance[name] for name in names]
    axes.barh(range(len(names)), values, height=0.65, color=[MUTED if name == "sampling" else BLUE for name in names])
    for row, name in enumerate(names):
        if name in intervals and None not in intervals[name]:
            axes.plot(np.clip(intervals[name], 0, 1), [row, row], color=INK, linewidth=1)
    figures.name_rows(axes, names, length=40)
    figures.percent_axis(axes.xaxis)
    axes.set(xlabel="share of the variance of class accuracy", xlim=(0, None))
    axes.grid(axis="x")
    return figure


@styled
def discrepancy(epochs: Mapping[str, tuple], radii: tuple | None) -> Figure:
    """How the gap between the best and the worst class moves over training, and with the radius of the training.

    Args:
        epochs: `natural` and `adversarial`, as far as known -> (epochs, gaps, their intervals or None).
        radii: (radii, gaps, intervals, what the unit of the radii is called), or None where all runs have one radius.
    """
    panels = bool(epochs) + (radii is not None)
    figure = Figure(figsize=(3.6 * panels, 3.0), layout="constrained")
    axes = list(np.atleast_1d(figure.subplots(1, panels, sharey=True)))
    colours = {"natural": NATURAL, "adversarial": ADVERSARIAL}
    if epochs:
        for name, gaps in epochs.items():
            _with_intervals(axes[0], *gaps, colours[name], f"{name} training")
        axes[0].set(xlabel="epoch")
        figures.epoch_axis(axes[0].xaxis)
        axes[0].legend(fontsize=8)
    if radii is not None:
        *gaps, unit = radii
        _with_intervals(axes[-1], *gaps, ADVERSARIAL)
        axes[-1].set(xlabel=f"radius of the training, unit: {unit}")
        axes[-1].set_xlim(left=0)
    axes[0].set_ylabel("best minus worst class")
    for panel in axes:
        panel.grid(axis="y")
        figures.percent_axis(panel.yaxis)
        panel.set_ylim(bottom=0)
    return figure


def _with_intervals(axes, at, values, intervals, colour: str, label: str | None = None) -> None:
    axes.plot(at, values, color=colour, marker="o", markersize=3, label=label)
    for x, ends in zip(at, intervals, strict=True):
        if ends:
            axes.vlines(x, *ends, color=colour, linewidth=1)


@styled
def correlations(matrix, names: Sequence[str], title: str = "") -> Figure:
    """Rank correlations [S, S] of the class order between settings; more than `NAMED_SETTINGS` are not named."""
    matrix = np.asarray(matrix, float)
    size = min(9.0, 2.6 + 0.3 * len(names))
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = heat_map(axes, matrix, cmap="RdBu", vmin=-1, vmax=1)
    if len(names) <= NAMED_SETTINGS:
        short = _distinct(names, 30)
        axes.set_xticks(range(len(names)), short, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), short, fontsize=7)
    else:
        axes.set(xlabel="settings, in the order of the table", ylabel="settings, in the order of the table")
    if len(names) <= NUMBERED_CELLS:
        cell_numbers(axes, matrix, "{:.2f}".format, dark=0.6, fontsize=6)
    axes.set_title(title)
    colour_bar(figure, image, percent=False, shrink=0.7, aspect=25)
    return figure


@styled
def changes(effects: Sequence[Mapping], title: str = "") -> Figure:
    """Change of the accuracy of each class by each of `interventions.effects`, with intervals; a panel for each."""
    tallest = max(len(of["classes"]) for of in effects)
    figure, panels = figures.grid_of_panels(
        len(effects), 3, (3.2, 1.0 + 0.2 * min(tallest, NAMED_CLASSES)), sharex=True
    )
    for panel, of in zip(panels, effects, strict=True):
        shown = sorted(of["classes"], key=lambda row: row["change"])
        at = range(len(shown))
        panel.axvline(0, color=MUTED, linewidth=0.8)
        panel.hlines(at, *column(shown, "interval").T, color=INK, linewidth=1)
        panel.plot(column(shown, "change"), at, "o", color=BLUE, markersize=4)
        named = len(shown) <= NAMED_CLASSES
        panel.set_yticks(at if named else [], [shorten(row["name"], 18) for row in shown] if named else [], fontsize=8)
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(-0.6, len(shown) - 0.4)
        panel.set_title(f"{shorten(of['from'], 18)} to {shorten(of['to'], 18)}", fontsize=8, loc="left")
        panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        panel.tick_params(axis="x", labelbottom=True)
        panel.grid(axis="x")
    figures.heading(figure, title)
    figure.supxlabel("change of accuracy, points", fontsize=9)
    return figure
