"""Charts as SVG: sharp at any size, in the colours of the page, readable without colour.

Rules: every chart has a title and a description for those who cannot see it; every line and point
is named where it is, not in a separate legend; colours and text sizes come from the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgeinc.draw.markup import MINUS, Html, h, join, number

_POINTS = 80
"""Points a curve is averaged down to."""
_LOG_FROM = 20.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""
_NOT_LOSS = {"iteration", "lr", "seconds"}
_STYLES = 6
_MIOU_SPAN = 4.0
"""Points of mIoU the axis shows at least, so that noise does not look like a difference."""
_LINE = 15.0
"""Distance between two lines of text."""
_CHAR = 7.4
"""Room for a character of the charts' text, also in the larger letters of a narrow screen."""


class Area(NamedTuple):
    """The rectangle data is drawn in, and the values at its edges."""

    left: float
    right: float
    top: float
    bottom: float
    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    log_x: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value stands."""
        x0, x1 = (math.log10(v) for v in self.x) if self.log_x else self.x
        x = math.log10(x) if self.log_x else x
        y0, y1 = (math.log10(v) for v in self.y) if self.log else self.y
        y = math.log10(y) if self.log else y
        return (
            self.left + (x - x0) / (x1 - x0) * (self.right - self.left),
            self.bottom - (y - y0) / (y1 - y0) * (self.bottom - self.top),
        )


class Point(NamedTuple):
    """A variant that was measured: mIoU in percent, frames per second. A group shares a colour."""

    label: str
    fps: float
    miou: float
    group: str = ""


# ------------------------------------------------------------------------------ learning curves


def terms(rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of the loss terms; their sum first where there is more than one."""
    found = [k for k in (rows[0] if rows else ()) if k not in _NOT_LOSS and not k.endswith("_s")]
    parts = [k for k in found if k != "loss"]
    return ["loss", *parts] if "loss" in found and len(parts) != 1 else parts


def bin_size(iterations: int) -> int:
    """Iterations one point of a curve is the mean of."""
    return max(1, math.ceil(iterations / _POINTS))


def curves(rows: Sequence[Mapping[str, float]], *, title: str, key: str) -> Html:
    """The loss terms of a step over its iterations.

    Args:
        rows: Lines of metrics.jsonl, at least one, with at least one term.
        title: What a screen reader calls it.
        key: Unique within the page.
    """
    series = {name: _binned(rows, name) for name in terms(rows)}
    values = [y for points in series.values() for _, y in points]
    low, high = min(values), max(values)
    log = low > 0 and high / low > _LOG_FROM
    bounds = (low, high) if log else _padded(min(low, 0.0), high)
    last = max(x for points in series.values() for x, _ in points)
    area = Area(42, 246, 26, 176, (0, max(last, 1)), bounds, log)
    ends = {name: area.at(*points[-1])[1] for name, points in series.items()}
    placed = _spread(ends, area.top + 4, area.bottom)
    drawn = []
    for index, (name, points) in enumerate(series.items()):
        style = f"s{index % _STYLES}"
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (area.at(*p) for p in points))
        drawn += [
            h("polyline", points=path, cls=f"curve {style}"),
            h("line", x1=249, x2=256, y1=ends[name], y2=placed[name] - 4, cls=f"lead {style}"),
            h(
                "text",
                f"{_short(name)} {_value(points[-1][1])}",
                x=260,
                y=placed[name],
                cls=f"name {style}",
            ),
        ]
    scale = "loss (logarithmic)" if log else "loss"
    summary = ", ".join(
        f"{name} from {_value(points[0][1])} to {_value(points[-1][1])}"
        for name, points in series.items()
    )
    return _svg(
        (350, 216),
        _axes(area, x_name="iteration", y_name=scale),
        *drawn,
        title=title,
        summary=f"Over {int(last) + 1} iterations: {summary}.",
        key=key,
    )


def _binned(rows: Sequence[Mapping[str, float]], name: str) -> list[tuple[float, float]]:
    """Means over neighbouring iterations, at the middle of each group."""
    points = [
        (float(row.get("iteration", index)), float(row[name]))
        for index, row in enumerate(rows)
        if name in row and math.isfinite(row[name])
    ]
    size = bin_size(len(points))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _spread(ends: Mapping[str, float], top: float, bottom: float) -> dict[str, float]:
    """Heights for the names at the curves' ends: near them and a line of text apart."""
    order = sorted(ends, key=lambda name: ends[name])
    placed: dict[str, float] = {}
    at = top - _LINE
    for name in order:
        at = placed[name] = max(ends[name] + 4, at + _LINE)
    at = max(bottom + 4, top + _LINE * (len(order) - 1)) + _LINE
    for name in reversed(order):
        at = placed[name] = min(placed[name], at - _LINE)
    return placed


def _short(name: str, length: int = 8) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


# ------------------------------------------------------------------------------ speed and quality


def scatter(
    points: Sequence[Point],
    *,
    title: str,
    key: str,
    size: tuple[int, int] = (440, 278),
    front: bool = False,
    **attributes: float,
) -> Html:
    """MIoU against speed, each point with its name.

    Args:
        points: At least one.
        title: What a screen reader calls it.
        key: Unique within the page.
        size: (width, height) of the drawing's own units.
        front: Join the points that no other beats in both, by a dotted line.
        attributes: Further attributes of the element, such as its place in another drawing.
    """
    width, height = size
    slowest, fastest = min(p.fps for p in points), max(p.fps for p in points)
    log = slowest > 0 and fastest / slowest > _LOG_FROM
    area = Area(
        *(42, width - 16, 28, height - 42),
        x=(slowest / 1.5, fastest * 1.5) if log else (0, _ceiling(fastest * 1.1)),
        y=_padded(min(p.miou for p in points), max(p.miou for p in points), span=_MIOU_SPAN),
        log_x=log,
    )
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in (area.at(p.fps, p.miou) for p in points)]
    groups = sorted({p.group for p in points})
    drawn: list[Html | None] = [_front(points, area) if front else None]
    for point in sorted(points, key=lambda p: -p.miou):
        x, y = area.at(point.fps, point.miou)
        room = len(point.label) * _CHAR
        left, base = _free_place(x, y, room, area, taken)
        end = min(max(x, left + 4), left + room - 4), base - (10 if base > y + 4 else -3)
        kind = f"point g{groups.index(point.group) % _STYLES}" if point.group else "point"
        drawn += [
            h("line", x1=x, y1=y, x2=end[0], y2=end[1], cls="lead") if base != y + 4 else None,
            h("circle", cx=x, cy=y, r=5, cls=kind),
            h("text", point.label, x=left + room / 2, y=base, cls="name middle"),
        ]
    summary = "; ".join(
        f"{p.label}: {number(p.fps)} frames per second at {number(p.miou)} % mIoU" for p in points
    )
    return _svg(
        size,
        _axes(
            area,
            x_name="frames per second (logarithmic)" if log else "frames per second",
            y_name="mIoU, %",
        ),
        *drawn,
        title=title,
        summary=summary,
        key=key,
        **attributes,
    )


def _front(points: Sequence[Point], area: Area) -> Html:
    """The points that none is both faster and better than, slowest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.fps, -p.miou)):
        if not best or point.miou > best[-1].miou:
            best.append(point)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (area.at(p.fps, p.miou) for p in best))
    return h("polyline", points=path, cls="front")


def _free_place(
    x: float, y: float, width: float, area: Area, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Left end and baseline of a label beside its point that overlaps nothing placed before.

    Where every place near the point is taken the last one is used.
    """
    box = (0.0, 0.0, 0.0, 0.0)
    for drop in (4, -12, 20, -26, 34, -40, 48, -54, 62):
        for left in (x + 10, x - 10 - width, x - width / 2):
            box = (left, y + drop - 11, left + width, y + drop + 3)
            inside = box[0] > area.left and box[2] < area.right + 16
            inside = inside and box[1] > 0 and box[3] < area.bottom
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                return left, y + drop
    left = min(max(area.left + 4, box[0]), area.right + 12 - width)
    return left, box[3] - 3


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ------------------------------------------------------------------------------ what both share


def _svg(
    size: tuple[int, int],
    *children: Html | None,
    title: str,
    summary: str,
    key: str,
    **attributes: float,
) -> Html:
    return h(
        "svg",
        h("title", title, id=f"{key}-title"),
        h("desc", summary, id=f"{key}-desc"),
        *children,
        viewBox=f"0 0 {size[0]} {size[1]}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        **attributes,
    )


def _axes(area: Area, *, x_name: str, y_name: str) -> Html:
    """Grid lines, ticks and what the axes measure."""
    drawn = []
    for value, text in _log_ticks(*area.y) if area.log else _ticks(*area.y):
        _, y = area.at(area.x[0], value)
        drawn += [
            h("line", x1=area.left, x2=area.right, y1=y, y2=y, cls="grid"),
            h("text", text, x=area.left - 6, y=y + 4, cls="tick end"),
        ]
    for value, text in _log_ticks(*area.x) if area.log_x else _ticks(*area.x):
        x, _ = area.at(value, area.y[1])
        drawn += [
            h("line", x1=x, x2=x, y1=area.bottom, y2=area.bottom + 4, cls="axis"),
            h("text", text, x=x, y=area.bottom + 17, cls="tick middle"),
        ]
    return join(
        drawn,
        h("line", x1=area.left, x2=area.right, y1=area.bottom, y2=area.bottom, cls="axis"),
        h("text", x_name, x=area.right, y=area.bottom + 35, cls="label end"),
        h("text", y_name, x=0, y=12, cls="label"),
    )


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values between two, and how they are written: all with the same decimals."""
    step = _round_step(high - low)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [i * step for i in range(first, last + 1)]
    return [(v, f"{v:,.{decimals}f}".replace("-", MINUS)) for v in values]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [(m, m * 10.0**d) for d in decades for m in (1, 3) if low <= m * 10.0**d <= high]
    return [(v, f"{v:.6g}") for m, v in ticks if m == 1 or len(ticks) <= 7]


def _round_step(span: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that divides a span into six at most."""
    power = 10.0 ** math.floor(math.log10(span / 6))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= span / 6)


def _ceiling(value: float) -> float:
    step = _round_step(value)
    return math.ceil(value / step) * step


def _padded(low: float, high: float, *, span: float = 1e-9) -> tuple[float, float]:
    """Bounds a little outside of the values, and at least `span` apart."""
    if low == 0 and high > 0:
        return 0.0, high * 1.05
    margin = max(0.15 * (high - low), (span - (high - low)) / 2)
    return low - margin, high + margin


def _value(value: float) -> str:
    return f"{value:.3g}"
