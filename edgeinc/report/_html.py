"""Parts of the page: sections, tables, figures as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeinc.draw.markup import MINUS, NONE, Child, Html, h, join


class Spanning(str):
    """Text of a table's cell that goes on to the end of its row."""

    __slots__ = ()


def signed(value: float | None, digits: int = 1) -> str:
    """A difference with its sign."""
    if value is None:
        return NONE
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else MINUS) + text


def size_text(count: int | None) -> str:
    """Bytes as people read them."""
    if count is None:
        return NONE
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def time_text(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def section(title: str, *children: Child | Iterable[Child], key: str) -> Html:
    """A part of the page under its heading; `key` is what a link to it ends with."""
    return h("section", h("h2", title), *children, id=key)


def absent(text: str, command: str = "") -> Html:
    """What stands where there is nothing to show: why, and the command that changes it."""
    return h("p", text, join(" ", h("code", command)) if command else None, cls="absent")


def note(*children: Child | Iterable[Child]) -> Html:
    """The conditions under which figures were obtained."""
    return h("p", *children, cls="note")


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[Child]],
    *,
    numeric: Sequence[int] = (),
    cls: str = "",
) -> Html:
    """A table in a box of its own that scrolls sideways where the page is too narrow.

    Args:
        head: Column titles.
        rows: Cells, row by row; the first of each row is its heading.
        numeric: Indices of the columns that are aligned to the right.
        cls: Further classes of the table.
    """

    def kind(column: int) -> str | None:
        return "num" if column in numeric else None

    def cell(column: int, child: Child) -> Html:
        if isinstance(child, Spanning):
            return h("td", str(child), colspan=len(head) - column, cls="spanning")
        if column == 0:
            return h("th", child, scope="row", cls=kind(column))
        return h("td", child, cls=kind(column))

    return scrolling(
        h(
            "table",
            h("thead", h("tr", (h("th", t, scope="col", cls=kind(i)) for i, t in enumerate(head)))),
            h("tbody", (h("tr", (cell(i, child) for i, child in enumerate(row))) for row in rows)),
            cls=cls or None,
        )
    )


def scrolling(child: Child) -> Html:
    """A box that scrolls sideways by itself; reachable by keyboard."""
    return h("div", child, cls="scroll", tabindex="0")


def swatch(color: tuple[int, int, int]) -> Html:
    """A small square in a class's colour."""
    return h("span", cls="swatch", style=f"background:rgb{color}")
