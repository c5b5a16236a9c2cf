"""A chart as an SVG file of its own, with its colours and the conditions it holds under.

text = scatter_file(points, title="mIoU against speed", notes=["AMD EPYC, 2 threads"])
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from edgeinc.draw.charts import Point, scatter
from edgeinc.draw.markup import Html, h

_SIZE = 720, 400
_HEAD, _LINE, _FOOT, _MARGIN = 46, 17, 14, 16
_CHARS = 112
"""Characters of a note that fit into a line."""
_STYLE = """
svg { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
text { font-size: 12px; fill: #5b6472; }
.title { font-size: 16px; font-weight: 600; fill: #1b1f27; }
.name { fill: #1b1f27; }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.grid { stroke: #e1e4ea; }
.axis, .lead { stroke: #5b6472; }
.lead { opacity: 0.6; }
.front { fill: none; stroke: #5b6472; stroke-dasharray: 2 4; }
.point { stroke: #ffffff; stroke-width: 1.5; }
.g0 { fill: #1f5fd0; } .g1 { fill: #c2410c; } .g2 { fill: #0f766e; }
.g3 { fill: #9d2d8a; } .g4 { fill: #7a6200; } .g5 { fill: #1b1f27; }
"""


def scatter_file(points: Sequence[Point], *, title: str, notes: Sequence[str]) -> str:
    """mIoU against speed as a file any browser shows.

    Args:
        points: At least one.
        title: Above the chart.
        notes: Below it, each broken into lines.
    """
    lines = [line for note in notes for line in _wrapped(note)]
    width, height = _SIZE
    foot = _HEAD + height + _FOOT
    whole = foot + _LINE * len(lines) + _MARGIN
    chart = scatter(
        points,
        title=title,
        key="matrix",
        size=_SIZE,
        front=True,
        **{"x": _MARGIN, "y": _HEAD, "width": width, "height": height},
    )
    drawn = h(
        "svg",
        h("style", Html(_STYLE)),
        h("rect", width=width + 2 * _MARGIN, height=whole, fill="#ffffff"),
        h("text", title, x=_MARGIN, y=28, cls="title"),
        chart,
        (h("text", line, x=_MARGIN, y=foot + _LINE * (i + 1) - 4) for i, line in enumerate(lines)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width + 2 * _MARGIN} {whole}",
        width=width + 2 * _MARGIN,
        height=whole,
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{drawn}\n'


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _CHARS)
