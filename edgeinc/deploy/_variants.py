"""What a benchmark compares: every target with every runtime that can open it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeinc import registry
from edgeinc.errors import MissingError, UsageError, as_typed
from edgeinc.runs import Run, open_run
from edgeinc.runtimes import Session
from edgeinc.schema import Size


@dataclass(frozen=True)
class Variant:
    """One artifact on one runtime.

    `skipped` is the reason why it cannot be measured, or "". `precision` and `size` are what was
    asked for where there is no such artifact.
    """

    artifact: Path
    runtime: str
    skipped: str = ""
    precision: str = ""
    size: Size | None = None

    @property
    def file(self) -> Path:
        """The file whose size counts: of a step folder, its weights."""
        folder = self.artifact.is_dir()
        return self.artifact / "weights.safetensors" if folder else self.artifact

    def open(self, *, device: str, threads: int) -> Session:
        """Open it.

        Raises:
            MissingError: The device is not here.
            EdgeincError: The artifact is damaged.
        """
        plugin = registry.load("runtimes", self.runtime)
        return plugin.open(self.artifact, device=device, threads=threads)  # type: ignore[no-any-return]


def variants(targets: Sequence[Path], runtimes: Sequence[str] | None) -> list[Variant]:
    """Every pair of artifact and runtime to measure, in the order of targets and runtimes.

    Args:
        targets: Run folders and exported files.
        runtimes: Names; None takes, for a run, every runtime that is `unasked`, and for a file the
            one that opens it.

    Raises:
        UsageError: No target, a target that is neither, or an unknown runtime.
        RunError: A run without a finished step.
    """
    if not targets:
        raise UsageError("nothing to benchmark", hint="name a run or an exported file")
    plugins = {name: registry.load("runtimes", name) for name in registry.names("runtimes")}
    for name in runtimes or ():
        if name not in plugins:
            known = tuple(plugins)
            raise UsageError(f"unknown runtime '{name}'", hint=registry.suggest(name, known))
    usual = [name for name, plugin in plugins.items() if plugin.unasked]
    chosen = {name: plugins[name] for name in (runtimes or usual)}
    found: list[Variant] = []
    for target in targets:
        if (target / "run.json").is_file():
            found += _of_run(open_run(target), chosen)
        elif target.is_file():
            found += _of_file(target, chosen, asked=runtimes is not None)
        else:
            raise UsageError(
                f"{target} is neither a run nor an exported file", hint="check the path"
            )
    return found


def run_of(target: Path) -> Run | None:
    """The run that a folder or file is, or lies in."""
    for folder in (target, target.parent, target.parent.parent):
        if (folder / "run.json").is_file():
            return open_run(folder)
    return None


def _of_run(run: Run, plugins: dict[str, Any]) -> Iterator[Variant]:
    step = run.step().index
    for name, plugin in plugins.items():
        if "" in plugin.suffixes:
            artifacts = [run.folder(step)]
        else:
            exported = sorted((run.path / "export").glob(f"step-{step}.*"))
            artifacts = [path for path in exported if path.suffix in plugin.suffixes]
        if not artifacts:
            reason = f"step {step} is not exported, run `{as_typed('export', run.path)}`"
            if ".engine" in plugin.suffixes:
                made = as_typed("export", run.path, "--trt")
                reason = f"step {step} has no engine, run `{made}`"
            yield Variant(run.path, name, reason)
        for artifact in artifacts:
            yield Variant(artifact, name, _reason(plugin))


def _of_file(path: Path, plugins: dict[str, Any], *, asked: bool) -> Iterator[Variant]:
    opening = [name for name, plugin in plugins.items() if path.suffix in plugin.suffixes]
    if not asked:
        if not opening:
            raise UsageError(f"no runtime opens {path}", hint="see `edgeinc ls runtimes`")
        plugins = {opening[0]: plugins[opening[0]]}
    for name, plugin in plugins.items():
        fits = name in opening
        yield Variant(path, name, _reason(plugin) if fits else f"does not open {path.suffix} files")


def _reason(plugin: Any) -> str:
    state = plugin.availability()
    return "" if state.ok else f"{state.reason} ({state.fix})"


def open_all(
    found: Sequence[Variant], *, device: str, threads: int, stack: ExitStack
) -> list[tuple[Variant, Session | None]]:
    """Open what can be opened, to be closed with `stack`.

    A device that is not here makes a variant a skipped one.

    Raises:
        EdgeincError: An artifact is damaged.
    """
    opened: list[tuple[Variant, Session | None]] = []
    for variant in found:
        if variant.skipped:
            opened.append((variant, None))
            continue
        try:
            session = stack.enter_context(variant.open(device=device, threads=threads))
            opened.append((variant, session))
        except MissingError as err:
            opened.append((Variant(variant.artifact, variant.runtime, err.message), None))
    return opened


def select(
    opened: Sequence[tuple[Variant, Session | None]],
    *,
    precisions: Sequence[str] | None,
    sizes: Sequence[Size] | None,
) -> list[tuple[Variant, Session | None]]:
    """What was opened, of some precisions and sizes only.

    Where a run has no file of a precision and size that were asked for, a skipped variant says so.
    What cannot be opened stays, whatever it is.
    """
    if precisions is None and sizes is None:
        return list(opened)
    kept = [
        (variant, session)
        for variant, session in opened
        if session is None
        or (
            (precisions is None or session.precision in precisions)
            and (sizes is None or session.size in sizes)
        )
    ]
    return [*kept, *((variant, None) for variant in _absent(opened, precisions, sizes))]


def _absent(
    opened: Sequence[tuple[Variant, Session | None]],
    precisions: Sequence[str] | None,
    sizes: Sequence[Size] | None,
) -> Iterator[Variant]:
    """What was asked for and no run was exported to, by run and runtime."""
    groups: dict[tuple[Path, str], list[Session]] = {}
    for variant, session in opened:
        run = run_of(variant.artifact)
        if session is not None and run is not None and not variant.artifact.is_dir():
            groups.setdefault((run.path, variant.runtime), []).append(session)
    for (path, runtime), sessions in groups.items():
        for precision in precisions or sorted({s.precision for s in sessions}):
            for size in sizes or sorted({s.size for s in sessions}):
                if not any((s.precision, s.size) == (precision, size) for s in sessions):
                    what = f"not exported in {precision} at {size[0]}x{size[1]}"
                    yield Variant(path, runtime, what, precision, size)
