"""What the files of a run say, read once and strictly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgeinc import registry
from edgeinc.runs import Run
from edgeinc.schema import (
    ArtifactCard,
    BenchResult,
    BenchRow,
    DataRef,
    EvalResult,
    SourceRef,
    StepInfo,
    StepScore,
    from_json,
)

_CARD = re.compile(r"step-(\d+)\.[^.]+\.json")


@dataclass(frozen=True)
class Evidence:
    """Everything the page is made of.

    Attributes:
        run: The run folder.
        steps: Its finished steps, at least one.
        scores: Score recorded after each step, where there is one.
        metrics: Lines of each step's metrics.jsonl.
        cards: Cards of the exported files, by step and name.
        benches: Benchmarks, newest first.
    """

    run: Run
    steps: tuple[StepInfo, ...]
    scores: dict[int, EvalResult]
    metrics: dict[int, list[dict[str, float]]]
    cards: tuple[ArtifactCard, ...]
    benches: tuple[BenchResult, ...]

    @property
    def newest(self) -> StepInfo:
        """The last finished step."""
        return self.steps[-1]

    @property
    def score(self) -> EvalResult | None:
        """The score of the newest step."""
        return self.scores.get(self.newest.index)

    @property
    def history(self) -> dict[int, StepScore]:
        """Scores by step on the images of the newest score, that one included."""
        if self.score is None:
            return {}
        s = self.score
        now = StepScore(s.step, s.miou, s.hiou, {c.name: c.iou for c in s.classes})
        return {**{row.step: row for row in s.history}, s.step: now}

    @property
    def data(self) -> DataRef:
        """The data of the first step that was trained, which labels the classes it began with."""
        known = (step.data for step in self.steps if step.data.name)
        return next(known, self.newest.data)

    def card_of(self, row: BenchRow) -> ArtifactCard | None:
        """The card behind the file of a benchmark row; None for a step run by torch.

        A file of another run may have the same name, so its folder counts too. An engine goes by
        the name of the graph it was built from.
        """
        path = Path(row.artifact)
        *above, folder = path.parent.parts or ("",)
        if folder != "export" or (above and above[-1] != self.run.path.resolve().name):
            return None
        return next((c for c in self.cards if Path(c.file).stem == path.stem), None)

    def fastest(self) -> BenchRow | None:
        """The row that answers how fast the newest step is once exported.

        From the newest benchmark that measured one of its files: camera to classes (`e2e`)
        rather than the network alone, then the highest speed. What missed a gate answers nothing.
        """
        for bench in self.benches:
            rows = [
                row
                for row in bench.rows
                if row.fps is not None
                and not row.gate.startswith("missed")
                and (card := self.card_of(row)) is not None
                and card.step == self.newest.index
            ]
            if rows:
                return max(rows, key=lambda row: (row.scope == "e2e", row.fps or 0.0))
        return None


def data_words(data: DataRef) -> list[str]:
    """The flags that name recorded data to a command."""
    if not data.name:
        return ["--data", "NAME"]
    sources: tuple[DataRef | SourceRef, ...] = (data, *data.more)
    words: list[str] = []
    for source in sources:
        # What comes in one layout only goes by its name; anything else is where it lies.
        fixed = source.name in registry.names("datasets") and bool(
            registry.load("datasets", source.name).fixed_labels
        )
        words += ["--data", source.name if fixed else source.root]
        if fixed and not data.more:
            root = Path(source.root)
            words += ["--data-root", str(root.parent if root.name == source.name else root)]
    return words


def read(run: Run) -> Evidence:
    """Read the files of a run.

    Raises:
        RunError: The run has no finished step.
        EdgeincError: A file is damaged; the message names it.
    """
    run.step()
    steps = run.steps
    scores = {s.index: score for s in steps if (score := run.score(s.index)) is not None}
    cards = [
        from_json(ArtifactCard, path.read_bytes(), source=str(path))
        for path in sorted((run.path / "export").glob("*.json"))
        if _CARD.fullmatch(path.name)
    ]
    benches = [
        from_json(BenchResult, path.read_bytes(), source=str(path))
        for path in sorted((run.path / "bench").glob("*.json"))
    ]
    return Evidence(
        run=run,
        steps=steps,
        scores=scores,
        metrics={s.index: run.metrics(s.index) for s in steps},
        cards=tuple(sorted(cards, key=lambda c: (c.step, c.file))),
        benches=tuple(sorted(benches, key=lambda b: b.created, reverse=True)),
    )
