"""Parts of the page about learning: steps, curves, classes, and what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeinc.draw.charts import bin_size, curves, terms
from edgeinc.draw.markup import Child, Html, h, join, number
from edgeinc.errors import as_typed
from edgeinc.report._evidence import Evidence
from edgeinc.report._html import absent, note, scrolling, section, signed, swatch, table, time_text
from edgeinc.schema import ClassInfo, DataRef, EvalResult, SourceRef, StepInfo


def conditions(score: EvalResult) -> str:
    """Under which conditions a score was obtained."""
    first = "the first " if score.limit is not None else ""
    return (
        f"{_data_text(score.data)} {score.split}, {first}{score.images} images; {score.runtime}; "
        f"convention {score.convention}; grid: {score.grid}."
    )


def _data_text(data: DataRef) -> str:
    """Data as people tell it from other data: a format has many copies, so its path is named."""
    sources: tuple[DataRef | SourceRef, ...] = (data, *data.more)
    named = [s.name if Path(s.root).name == s.name else f"{s.name} {s.root}" for s in sources]
    return " and ".join(named)


def steps(evidence: Evidence) -> Html:
    """One row per step, and a step that was begun and not finished."""
    pending = evidence.run.pending
    scored = list(evidence.scores.values())
    return section(
        "Steps",
        table(
            (
                *("Step", "Method", "New classes", "Images"),
                *("mIoU old", "mIoU new", "mIoU all", "hIoU", "Iterations", "Time"),
            ),
            [_step_row(s, evidence.scores.get(s.index)) for s in evidence.steps],
            numeric=range(3, 10),
        ),
        [note("mIoU and hIoU in percent. ", *_distinct(scored))]
        if scored
        else absent("No step was scored when it was trained."),
        note(f"Step {pending.index} ({pending.method}) was begun and is not finished.")
        if pending
        else None,
        key="steps",
    )


def _distinct(scores: Sequence[EvalResult]) -> list[str]:
    """The conditions of several scores: one sentence where they agree, else one per step."""
    texts = [conditions(s) for s in scores]
    if len(set(texts)) == 1:
        return [f"Scored on {texts[0]}"]
    return [f"Step {s.step}: {text} " for s, text in zip(scores, texts, strict=True)]


def _step_row(step: StepInfo, score: EvalResult | None) -> tuple[Child, ...]:
    miou = score.miou if score else None
    return (
        step.index,
        step.method,
        h("span", ", ".join(step.new_classes), cls="wrap"),
        step.images,
        number(miou.old if miou else None),
        number(miou.new if miou else None),
        number(miou.all if miou else None),
        number(score.hiou if score else None),
        step.iterations,
        time_text(step.seconds),
    )


def learning(evidence: Evidence) -> Html:
    """The loss of each step over its iterations."""
    figures = []
    for step in evidence.steps:
        rows = evidence.metrics[step.index]
        name = f"Step {step.index}: {step.method}"
        if not terms(rows):
            figures.append(h("figure", h("figcaption", name), absent("No metrics were recorded.")))
            continue
        size = bin_size(len(rows))
        figures.append(
            h(
                "figure",
                h("figcaption", name, " ", h("small", f"{len(rows)} iterations, means of {size}")),
                curves(rows, title=f"{name}, loss", key=f"curve-{step.index}"),
            )
        )
    return section(
        "Learning curves",
        h("div", figures, cls="multiples"),
        note(
            "Terms of the loss on the training images, weighted as they enter their sum ",
            h("b", "loss"),
            "; the last value stands beside each name.",
        ),
        key="curves",
    )


def classes(evidence: Evidence) -> Html:
    """IoU of each class as a bar, beside where it was one step before."""
    score = evidence.score
    if score is None:
        return section(
            "Classes",
            absent("The newest step was not scored when it was trained."),
            key="classes",
        )
    before = evidence.history.get(score.step - 1)
    found = {c.name: c.iou for c in score.classes}
    rows = [
        _class_row(c, found.get(c.name), before.iou.get(c.name) if before else None, score.step)
        for c in evidence.newest.classes
    ]
    mark = ""
    if before is not None:
        mark = f" The line in a bar is the IoU after step {before.step}; change in points."
    return section(
        "Classes",
        table(("Class", "", "IoU, %", "Change"), rows, numeric=(2, 3), cls="bars"),
        note(f"After step {score.step}, ", conditions(score), mark),
        _named("Absent from these images: ", score.absent),
        _named("Not labelled in this data, so in no score: ", score.unlabelled),
        key="classes",
    )


def _named(text: str, names: Sequence[str]) -> Html | None:
    return note(text, ", ".join(names)) if names else None


def _class_row(
    entry: ClassInfo, iou: float | None, before: float | None, newest: int
) -> tuple[Child, ...]:
    fresh = entry.step == newest and newest > 0
    change = iou - before if iou is not None and before is not None else None
    bar = h(
        "div",
        h("span", cls="fill", style=f"width:{iou or 0:.2f}%;background:rgb{entry.color}"),
        h("span", cls="was", style=f"left:{before:.2f}%") if before is not None else None,
        cls="bar",
    )
    return _name(entry, fresh), bar, number(iou), "new" if fresh else signed(change)


def _name(entry: ClassInfo, fresh: bool) -> Html:
    badge = h("span", "new", cls="badge") if fresh else None
    return join(swatch(entry.color), h("span", entry.name, cls="class"), badge)


def forgetting(evidence: Evidence) -> Html:
    """IoU of every class after every step: what was learned and what was lost."""
    history = evidence.history
    title = "Forgetting"
    if len(evidence.steps) < 2:
        return section(
            title,
            absent(
                "There is one step, so nothing can have been forgotten.",
                as_typed("extend", evidence.run.path, "--new-classes", "NAME,NAME"),
            ),
            key="forgetting",
        )
    if evidence.score is None or len(history) < 2:
        return section(
            title,
            absent(
                "The steps were scored on different images when they were trained, which says "
                "nothing of forgetting. Compare them on those of the first:",
                as_typed("eval", evidence.run.path, "--step", "all"),
            ),
            key="forgetting",
        )
    other = [s for s in evidence.scores.values() if s.step not in history]
    lost = {c.name: c.forgetting for c in evidence.score.classes}
    head = ("Class", *(f"Step {s.index}" for s in evidence.steps), "Change")
    last = evidence.newest.index
    rows = [
        h(
            "tr",
            h("th", _name(c, c.step == last), scope="row"),
            (_cell(c, s.index, evidence) for s in evidence.steps),
            h("td", "new" if c.step == last else signed(_change(lost.get(c.name))), cls="num"),
        )
        for c in evidence.newest.classes
    ]
    return section(
        title,
        scrolling(
            h(
                "table",
                h("thead", h("tr", (h("th", t, scope="col", cls="num") for t in head))),
                h("tbody", rows),
                cls="matrix",
            )
        ),
        note(
            "IoU in percent after each step. A frame marks the step a class was learned at; the "
            "last column is its IoU now minus its IoU there, in points. ",
            conditions(evidence.score),
        ),
        note(
            "On other images, so not compared here: ",
            ", ".join(f"step {s.step} ({_data_text(s.data)} {s.split})" for s in other),
        )
        if other
        else None,
        key="forgetting",
    )


def _change(forgetting: float | None) -> float | None:
    """Forgetting counts what was lost; a change that is a loss is negative."""
    return None if forgetting is None else -forgetting


def _cell(entry: ClassInfo, step: int, evidence: Evidence) -> Html:
    """One cell of the matrix, darker the higher the IoU."""
    if step < entry.step:
        return h("td", cls="num none")
    row = evidence.history.get(step)
    iou = row.iou.get(entry.name) if row else None
    born = " born" if step == entry.step else ""
    shade = None if iou is None else f"--v:{iou:.0f}%"
    return h("td", number(iou), cls=f"num cell{born}", style=shade)
