"""Elements of a page or a picture in XML.

Rules: whatever is not `Html` already is escaped, so no name in a file can become markup; every
element is closed by the function that opened it.

    h("p", "IoU of ", h("b", "<script>"), cls="note")
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_EMPTY = {"img", "meta", "line", "circle", "polyline", "rect"}
"""Elements without content; written as `<x/>`, which HTML and SVG both read."""


_ATTRIBUTE = {"cls": "class"}

NONE = "\u2013"
"""What stands where there is no value: an en dash."""
MINUS = "\u2212"
"""As wide as a digit, so that columns stay aligned."""
TIMES = "\u00d7"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Child = str | int | None


def h(name: str, /, *children: Child | Iterable[Child], **attributes: str | float | None) -> Html:
    """An element.

    Args:
        name: Its tag.
        children: Text, which is escaped, or `Html`; None is left out.
        attributes: `cls` stands for `class`, `_` in a name for `-`; None is left out.
    """
    written = "".join(
        f' {_ATTRIBUTE.get(key, key).replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child | Iterable[Child]) -> Html:
    """Children one after the other."""
    return Html("".join(_flat(children)))


def _flat(children: Iterable[Child | Iterable[Child]]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str | int):
            yield escape(str(child))
        else:
            yield from _flat(child)


def _text(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def number(value: float | None, digits: int = 1) -> str:
    """A figure with a fixed number of decimals, a dash where there is none."""
    return NONE if value is None else f"{value:.{digits}f}"
