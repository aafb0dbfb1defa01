"""What the figures of this package share: style, colours, and how a figure becomes a file or a part of a page.

    figure = classes.class_bars(names, {"clean": (accuracy, low, high), "pgd20": (accuracy, low, high)})
    to_svg(figure)  # for a page: follows its light or dark theme through CSS variables
    to_rgb(figure)  # for TensorBoard

A figure is a function from plain arrays, or from rows as results files hold them, to a matplotlib `Figure`: of the
classes of a run in classes.py and matrix.py, of its images in images.py, and of a command in the file named after it.

No pyplot, so no global state and no display. Accuracies are fractions in [0, 1], shown as percentages. Any number of
classes is readable: up to `NAMED_CLASSES` each is named; beyond, the figure shows all of them by rank and names
the worst and the best. Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

import functools
import hashlib
import io
import re
import warnings

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

NAMED_CLASSES = 30  # most classes that a figure names one by one
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


def styled(draw):
    """Runs `draw` under this module's style, whatever the user's matplotlib settings."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs):
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            # Names in scripts that matplotlib's font lacks: the browser has a font for them.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **kwargs)

    return wrapped


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


@styled
def to_file(figure: Figure, file_format: str) -> bytes:
    """The figure as a file of its own on white, "svg" or "png"; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator")) if file_format == "svg" else {"Software": None}
    figure.savefig(buffer, format=file_format, dpi=200, metadata=metadata)
    return buffer.getvalue()


def text_inches(text: str, font_size: float) -> float:
    """Width of a line of text."""
    return TextPath((0, 0), text, size=font_size).get_extents().width / 72 if text else 0


def column(rows, name: str) -> np.ndarray:
    """What all rows have under a name, floats; nan in place of None."""
    return np.array([row[name] for row in rows], float)


def is_crowded(classes) -> bool:
    """Whether the marks of so many classes become pixels."""
    return len(classes) > VECTOR_CLASSES


def heading(figure: Figure, title: str) -> None:
    """One line at the top left."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)


def legend(figure: Figure, marks, **layout) -> None:
    """What marks mean, below the figure: artists, or the properties of lines, `label` among them."""
    handles = [Line2D([], [], **mark) if isinstance(mark, dict) else mark for mark in marks]
    figure.legend(handles=handles, **{"loc": "outside lower center", "fontsize": 8} | layout)


def name_rows(axes, names, position=None, length: int = NAME_LENGTH) -> None:
    """Names at the left of rows at `position`, by default 0, 1, ...; the first on top."""
    position = np.arange(len(names)) if position is None else position
    axes.set_yticks(position, [shorten(name, length) for name in names], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(position[-1] + 0.6, -0.6)


def whisker(axes, y: float, value: float, interval, colour: str, filled: bool) -> None:
    """A dot with its interval in a row."""
    axes.hlines(y, *interval, color=colour, linewidth=1.4)
    axes.plot(value, y, "o", color=colour, markerfacecolor=colour if filled else PAPER, markersize=5)


def percent_axis(axis, set_limits=None) -> None:
    """Shows fractions as percentages; with the axis's `set_limits`, from 0 to 100."""
    if set_limits:
        set_limits(0, 1)
        axis.set_major_locator(MultipleLocator(0.2))
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def accuracy_axis(axes) -> None:
    """Shows accuracies from left to right, as percentages."""
    axes.set(xlim=(-0.02, 1.02), xlabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    percent_axis(axes.xaxis)
    axes.grid(axis="x")


def points_axis(axis) -> None:
    """Shows differences of fractions as percentage points with their sign."""
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:+.3g}" if value else "0"))


def epoch_axis(axis, most: int = 6) -> None:
    """Whole numbers, few of them."""
    axis.set_major_locator(MaxNLocator(most, integer=True, steps=[1, 2, 5, 10]))


def grid_of_panels(number: int, columns: int, size: tuple[float, float], **shared):
    """A figure of that many panels of that size, at most `columns` beside each other, and the panels."""
    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for panel in panels[number:]:
        panel.set_visible(False)
    return figure, panels[:number]
