"""The page itself: its frame, the headline, the pictures, and how to repeat it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeinc import __version__
from edgeinc.draw.markup import NONE, TIMES, Child, Html, h, join, number
from edgeinc.errors import as_typed
from edgeinc.report import _deployment, _learning
from edgeinc.report._evidence import Evidence
from edgeinc.report._html import absent, note, section, signed, size_text, swatch, table
from edgeinc.report._overlays import Overlays
from edgeinc.schema import Setting, StepInfo

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The browser itself refuses anything from the network."""


def page(evidence: Evidence, pictures: Overlays) -> str:
    """The whole document."""
    name = evidence.run.path.resolve().name
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return "<!doctype html>\n" + h(
        "html",
        h(
            "head",
            h("meta", charset="utf-8"),
            h("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            h("meta", name="viewport", content="width=device-width, initial-scale=1"),
            h("meta", name="color-scheme", content="light dark"),
            h("title", f"{name} · edgeinc"),
            h("style", Html(style)),
        ),
        h(
            "body",
            _header(evidence, name),
            h(
                "main",
                _headline(evidence),
                _learning.steps(evidence),
                _pictures(evidence, pictures),
                _learning.classes(evidence),
                _learning.forgetting(evidence),
                _deployment.speed(evidence),
                _deployment.parity(evidence),
                _learning.learning(evidence),
                _repeat(evidence),
            ),
            h("footer", f"Written by edgeinc {__version__} from the files of {evidence.run.path}."),
        ),
        lang="en",
    )


def _header(evidence: Evidence, name: str) -> Html:
    info, last = evidence.run.info, evidence.newest
    facts = [
        info.model,
        f"{info.size[0]}{TIMES}{info.size[1]} pixels",
        last.data.name,
        f"scenario {info.scenario.name}" if info.scenario else None,
        f"{len(evidence.steps)} step{'s' if len(evidence.steps) > 1 else ''}",
        f"begun {info.created[:10]}",
    ]
    return h("header", h("h1", name), h("p", " · ".join(f for f in facts if f)))


def _headline(evidence: Evidence) -> Html:
    last, score = evidence.newest, evidence.score
    miou = score.miou if score else None
    before = evidence.history.get(last.index - 1)
    gain = None
    if miou and before and miou.old is not None and before.miou.all is not None:
        gain = miou.old - before.miou.all
    scored = f"all {len(last.classes)} classes"
    if score and score.unlabelled:
        left = len(last.classes) - len(score.unlabelled)
        scored = f"{left} of {len(last.classes)} classes: the others are not labelled"
    tiles = [_tile("mIoU", number(miou.all if miou else None), "%", scored)]
    if last.index:
        older = len(last.classes) - len(last.new_classes)
        change = f", {signed(gain)} points since step {last.index - 1}" if gain is not None else ""
        new = ", ".join(last.new_classes)
        tiles += [
            _tile("old classes", number(miou.old if miou else None), "%", f"{older} known{change}"),
            _tile("new classes", number(miou.new if miou else None), "%", new),
        ]
    return h(
        "section",
        h("div", tiles, _speed_tiles(evidence), cls="tiles"),
        note(f"mIoU after step {last.index}: ", _learning.conditions(score))
        if score
        else absent("The newest step was not scored when it was trained."),
        id="headline",
        aria_label="Headline numbers",
    )


def _speed_tiles(evidence: Evidence) -> list[Html]:
    """Speed and size of the same exported file, or that there is none."""
    row = evidence.fastest()
    if row is None:
        cards = [c for c in evidence.cards if c.step == evidence.newest.index]
        what = as_typed("bench", evidence.run.path) if cards else "not exported yet"
        size = size_text(cards[0].bytes) if cards else NONE
        return [
            _tile("speed", NONE, "FPS", f"not measured: {what}" if cards else what),
            _tile("file", size, "", cards[0].file if cards else what),
        ]
    same = f", mIoU {number(row.miou)} %" if row.miou is not None else ""
    threads = f"{row.threads} thread{'' if row.threads == 1 else 's'}"
    how = f"{row.runtime}, {row.precision}, {row.scope}, {threads}{same}"
    return [
        _tile("speed", number(row.fps), "FPS", how),
        _tile("file", size_text(row.file_bytes), "", Path(row.artifact).name),
    ]


def _tile(name: str, value: str, unit: str, caption: str) -> Html:
    return h(
        "div",
        h("div", name, cls="tile-name"),
        h("div", value, h("span", f" {unit}", cls="unit") if unit else None, cls="tile-value"),
        h("div", caption, cls="tile-note"),
        cls="tile",
    )


def _pictures(evidence: Evidence, pictures: Overlays) -> Html:
    title = "Before and after" if evidence.newest.index else "What it sees"
    if pictures.missing:
        return section(title, absent(f"No pictures: {pictures.missing}"), key="pictures")
    last = evidence.newest
    rows = [
        h(
            "div",
            (
                h(
                    "figure",
                    h("img", src=panel.uri, alt=f"{panel.name}, image {image_id}"),
                    h("figcaption", panel.name),
                )
                for panel in panels
            ),
            cls="strip",
        )
        for image_id, panels in pictures.rows
    ]
    chosen = ", ".join(image_id for image_id, _ in pictures.rows)
    legend = (h("li", swatch(c.color), c.name) for c in last.classes)
    return section(
        title,
        h("ul", legend, cls="legend"),
        rows,
        note(
            f"Images of {last.data.name} val: the one with the most pixels of ",
            h("b", ", ".join(last.new_classes)),
            f" in each part of the list ({chosen}). Drawn with {'; '.join(pictures.runtimes)}. "
            "Void and unknown classes are left uncoloured in the truth.",
        ),
        key="pictures",
    )


def _repeat(evidence: Evidence) -> Html:
    """Commands, machine, versions, hashes and settings."""
    commands = [join(f"{step.command or '(not recorded)'}\n") for step in evidence.steps]
    return section(
        "Repeat it",
        h("pre", commands, tabindex="0"),
        table(
            ("Step", "Started", "Images, sha256", "Parent, sha256", "Weights, sha256"),
            [
                (
                    s.index,
                    s.started,
                    _hash(s.images_sha256),
                    _hash(s.parent_sha256),
                    _hash(s.weights_sha256),
                )
                for s in evidence.steps
            ],
        ),
        [_details(step) for step in evidence.steps],
        key="repeat",
    )


def _hash(value: str) -> Child:
    return h("code", value[:12], title=value) if value else NONE


def _details(step: StepInfo) -> Html:
    """The machine and every setting of a step, folded away."""
    host = step.host
    machine = [
        ("processor", f"{host.cpu}, {host.cores} cores, {host.memory_gb:g} GB"),
        ("accelerator", host.gpu or "none"),
        ("platform", f"{host.platform}, Python {host.python}"),
        *host.versions.items(),
    ]
    options = {f"method.{key}": Setting(value, "") for key, value in step.method_options.items()}
    return h(
        "details",
        h("summary", f"Step {step.index}: machine, versions and settings"),
        h(
            "div",
            table(("Machine", ""), machine),
            table(
                ("Setting", "Value", "From"),
                [(k, _value(s.value), s.source) for k, s in {**step.settings, **options}.items()],
            ),
            cls="columns",
        ),
    )


def _value(value: Any) -> str:
    return NONE if value is None else str(value)
