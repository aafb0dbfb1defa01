"""The texts that a figure draws, and which of them collide."""

import itertools

import pytest
from matplotlib.text import Text

from jaxrobust import figures

LONG_NAMES = [f"an uncommonly long name of a class, number {i}" for i in range(10)]


def drawn_texts(figure):
    """(text, extent in pixels) of everything that is drawn; an axis also keeps ticks outside its limits."""
    drawn = {}
    with pytest.MonkeyPatch.context() as patch:
        draw = Text.draw
        patch.setattr(Text, "draw", lambda text, renderer: (drawn.setdefault(text), draw(text, renderer)))
        figures.to_rgb(figure)
    shown = [text for text in drawn if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


def collisions(figure):
    """Pairs of texts that overlap by more than a pixel in each direction."""
    return [
        (a, b)
        for (a, p), (b, q) in itertools.combinations(drawn_texts(figure), 2)
        if min(p.x1, q.x1) - max(p.x0, q.x0) > 1 and min(p.y1, q.y1) - max(p.y0, q.y0) > 1
    ]
