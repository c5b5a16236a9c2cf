"""Parts of the page about the exported files: speed, and agreement with what was trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from edgeinc.draw.charts import Point, scatter
from edgeinc.draw.markup import NONE, TIMES, Child, Html, h, number
from edgeinc.errors import as_typed
from edgeinc.report._evidence import Evidence, data_words
from edgeinc.report._html import Spanning, absent, note, section, size_text, table
from edgeinc.schema import ArtifactCard, BenchResult, BenchRow


def speed(evidence: Evidence) -> Html:
    """Quality against speed from the newest benchmark, then every row of every benchmark."""
    title = "Speed"
    if not evidence.benches:
        return section(
            title,
            absent("Nothing was measured yet.", as_typed("bench", evidence.run.path)),
            key="speed",
        )
    newest, *older = evidence.benches
    return section(
        title,
        _figure(newest, evidence),
        _bench(newest),
        [
            h("details", h("summary", f"Benchmark of {bench.created}"), _bench(bench))
            for bench in older
        ],
        key="speed",
    )


def _figure(bench: BenchResult, evidence: Evidence) -> Html:
    measured = [r for r in bench.rows if r.fps is not None and r.miou is not None]
    scope = "e2e" if any(r.scope == "e2e" for r in measured) else "infer"
    shown = [r for r in measured if r.scope == scope]
    if not shown:
        return absent(
            "No variant was measured for both speed and mIoU.",
            as_typed("bench", evidence.run.path, *data_words(evidence.data)),
        )
    labels = _labels(shown)
    points = [
        Point(label, r.fps, r.miou)
        for label, r in zip(labels, shown, strict=True)
        if r.fps is not None and r.miou is not None
    ]
    return h(
        "figure",
        h("figcaption", "mIoU against speed ", h("small", f"scope {scope}, described below")),
        scatter(points, title="mIoU against frames per second", key="scatter"),
        cls="scatter",
    )


def _labels(rows: Sequence[BenchRow]) -> list[str]:
    """`runtime·precision`, with the provider and the file where that is not enough."""
    short = [f"{r.runtime}·{r.precision}" for r in rows]
    longer = [f"{s} {_provider(r)}" for s, r in zip(short, rows, strict=True)]
    longest = [f"{s} {Path(r.artifact).stem}" for s, r in zip(short, rows, strict=True)]
    counts, counts_longer = Counter(short), Counter(longer)
    return [
        s if counts[s] == 1 else m if counts_longer[m] == 1 else x
        for s, m, x in zip(short, longer, longest, strict=True)
    ]


def _bench(bench: BenchResult) -> Html:
    machine = bench.host.gpu or bench.host.cpu
    more = [c for c in _MORE if any(c[1](row) != NONE for row in bench.rows)]
    scored = f"; mIoU on {bench.images} images of {bench.data.name}" if bench.data else ""
    return h(
        "div",
        table(
            (
                *("Artifact", "Runtime", "Precision", "Scope", "Size", "Threads", "FPS"),
                *("p50, ms", "p90, ms", "p99, ms", "CoV, %", "mIoU, %", "File", "Peak, MB"),
                *(title for title, _ in more),
            ),
            [_bench_row(r, [figure for _, figure in more]) for r in bench.rows],
            numeric=range(5, 14 + len(more)),
        ),
        note(f"Measured on {machine} ({bench.host.platform}) at {bench.created}{scored}."),
        (note(f"Best at {b.size[0]}{TIMES}{b.size[1]}: {b.why}.") for b in bench.best),
        None if bench.finished else note("This benchmark was interrupted: rows are missing."),
        h("ul", (h("li", h("b", k), f": {v}") for k, v in bench.scopes.items()), cls="note"),
    )


_MORE: tuple[tuple[str, Callable[[BenchRow], str]], ...] = (
    ("Agreement, %", lambda r: number(r.agreement, 3)),
    ("Power, W", lambda r: number(r.watts)),
    ("J/frame", lambda r: number(r.joules, 3)),
    ("Throttled", lambda r: NONE if r.throttled is None else "yes" if r.throttled else "no"),
)
"""Columns only some machines have figures for."""


def _bench_row(row: BenchRow, more: Sequence[Callable[[BenchRow], str]]) -> Sequence[Child]:
    start: tuple[Child, ...] = (
        Path(row.artifact).name,
        f"{row.runtime} ({_provider(row)})" if row.provider else row.runtime,
        row.precision,
        row.scope,
        f"{row.size[0]}{TIMES}{row.size[1]}",
    )
    if row.fps is None:
        return (*start, Spanning(row.status))
    return (
        *start,
        row.threads,
        h("span", number(row.fps), h("small", row.status) if row.status != "ok" else None),
        number(row.p50_ms),
        number(row.p90_ms),
        number(row.p99_ms),
        number(row.cov_percent),
        number(row.miou),
        size_text(row.file_bytes),
        number(row.peak_mb, 0),
        *(figure(row) for figure in more),
    )


def _provider(row: BenchRow) -> str:
    """What executed the row, as short as it is clear: `CPU` of `CPUExecutionProvider`."""
    return row.provider.removesuffix("ExecutionProvider")


def parity(evidence: Evidence) -> Html:
    """Whether each exported file sees what the trained network sees."""
    title = "Exported files"
    if not evidence.cards:
        return section(
            title,
            absent("Nothing was exported yet.", as_typed("export", evidence.run.path)),
            key="parity",
        )
    return section(
        title,
        table(
            (
                *("File", "Step", "Precision", "Size", "Agreement, %", "Gate, %"),
                *("Worst class", "its IoU, %", "Images", "Parity"),
            ),
            [_parity_row(c) for c in evidence.cards],
            numeric=(3, 4, 5, 7, 8),
        ),
        note(
            "Agreement: pixels on which the exported file and torch decide alike, on real images. "
            "Worst class: the class whose two predicted masks overlap least."
        ),
        key="parity",
    )


def _parity_row(card: ArtifactCard) -> tuple[Child, ...]:
    start: tuple[Child, ...] = (card.file, card.step, card.precision, size_text(card.bytes))
    found = card.parity
    if found is None:
        return (*start, *(NONE,) * 5, "not checked")
    verdict = (
        h("span", "✓ passed", cls="good") if found.passed else h("span", "✗ failed", cls="bad")
    )
    return (
        *start,
        number(found.agreement, 3),
        number(found.gate, 2),
        found.worst_class,
        number(found.worst_class_iou, 2),
        found.images,
        verdict,
    )
