"""The run folder: one model's whole lineage of steps.

    runs/camvid-erfnet/
      run.json               model, size, scenario
      step-0/                base training
        step.json            settings with sources, classes, hashes of parent and weights
        weights.safetensors  every tensor of the network, verified by hash whenever it is read
        metrics.jsonl        one line per iteration
        eval.json            score after the step
        hold-out.txt         images kept out of training, where there are any
        memory.safetensors   what the method keeps for the next step, where it keeps anything
        state.safetensors    only while the step is running: what `--resume` continues from
      step-1/ ...
      export/ bench/ predict/ report.html

Rules: every write a reader depends on is atomic (temporary file in the same folder, fsync,
rename, fsync of the folder); a run is changed only under its lock; a step is done when its
step.json says so, and then never changes.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from filelock import FileLock, Timeout

from edgeinc.errors import RunError, UsageError, as_typed
from edgeinc.schema import EvalResult, RunInfo, StepInfo, from_json, to_json

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LAST = Path(".edgeinc") / "last-run"


class Run:
    """An existing run folder. Make one with `create_run` or `open_run`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = path / "run.json"
        self.info = from_json(RunInfo, file.read_bytes(), source=str(file))

    def folder(self, index: int) -> Path:
        """The folder of a step, whether it exists or not."""
        return self.path / f"step-{index}"

    @property
    def steps(self) -> tuple[StepInfo, ...]:
        """The steps that are done, in order."""
        return tuple(s for s in self._all() if s.status == "done")

    @property
    def pending(self) -> StepInfo | None:
        """The step that was begun and not finished, if any."""
        return next((s for s in self._all() if s.status == "running"), None)

    def step(self, index: int | None = None) -> StepInfo:
        """A finished step, the newest when no index is given.

        Raises:
            RunError: The run has no finished step.
            UsageError: No such step.
        """
        steps = self.steps
        if not steps:
            # What is pending is recorded, data included; where nothing is, data must be named.
            data = [] if self.pending else ["--data", "NAME"]
            go_on = as_typed("train", *data, "--run", self.path, "--resume")
            raise RunError(f"{self.path} has no finished step", hint=f"finish it with `{go_on}`")
        if index is None:
            return steps[-1]
        if not 0 <= index < len(steps):
            raise UsageError(
                f"{self.path} has no step {index}", hint=f"steps: 0 to {len(steps) - 1}"
            )
        return steps[index]

    def weights(self, index: int) -> Path:
        """The weights of a finished step, verified.

        Raises:
            RunError: The file is missing or its hash is not the recorded one.
        """
        step, path = self.step(index), self.folder(index) / "weights.safetensors"
        found = sha256(path) if path.exists() else "no file"
        if found != step.weights_sha256:
            raise RunError(
                f"{path} was changed: sha256 {found[:12]}, recorded {step.weights_sha256[:12]}",
                hint="restore the file from a copy, or train the step again",
            )
        return path

    def score(self, index: int) -> EvalResult | None:
        """The score recorded right after a step, or None."""
        file = self.folder(index) / "eval.json"
        return from_json(EvalResult, file.read_bytes(), source=str(file)) if file.exists() else None

    def held_out(self, index: int) -> tuple[str, ...]:
        """Images of a step that were kept out of its training; () where none were."""
        file = self.folder(index) / "hold-out.txt"
        return tuple(file.read_text(encoding="utf-8").splitlines()) if file.exists() else ()

    def memory(self, index: int) -> Path | None:
        """The file of what a step's method kept for the next one, if it kept anything."""
        file = self.folder(index) / "memory.safetensors"
        return file if file.exists() else None

    def write_memory(self, index: int, content: bytes) -> None:
        """Record what a step's method keeps for the next one.

        Raises:
            RunError: The disk is full.
        """
        write_atomic(self.folder(index) / "memory.safetensors", content)

    def write_held_out(self, index: int, images: Sequence[str]) -> None:
        """Record the images that a step does not train on.

        Raises:
            RunError: The disk is full.
        """
        content = "".join(f"{image}\n" for image in images)
        write_atomic(self.folder(index) / "hold-out.txt", content.encode())

    def metrics(self, index: int) -> list[dict[str, float]]:
        """The lines of a step's metrics.jsonl; empty where there is none."""
        file = self.folder(index) / "metrics.jsonl"
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    def write_step(self, step: StepInfo) -> None:
        """Record a step atomically.

        Raises:
            RunError: The disk is full.
        """
        self.folder(step.index).mkdir(exist_ok=True)
        write_atomic(self.folder(step.index) / "step.json", to_json(step).encode())

    def discard(self, index: int) -> None:
        """Remove an unfinished step.

        Raises:
            RunError: The step is finished.
        """
        if index < len(self.steps):
            raise RunError(f"{self.folder(index)} is finished", hint="finished steps stay")
        shutil.rmtree(self.folder(index), ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing.

        Raises:
            RunError: Another process holds it; the message names it.
        """
        owner = self.path / ".lock-owner"
        try:
            with FileLock(self.path / ".lock", timeout=0):
                owner.write_text(f"process {os.getpid()}", encoding="utf-8")
                try:
                    yield
                finally:
                    owner.unlink(missing_ok=True)
        except Timeout as err:
            holder = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
            raise RunError(
                f"{self.path} is in use by {holder}", hint="wait until it ends, then repeat"
            ) from err

    def _all(self) -> Iterator[StepInfo]:
        for index in range(len(list(self.path.glob("step-*")))):
            file = self.folder(index) / "step.json"
            if not file.exists():
                return
            yield from_json(StepInfo, file.read_bytes(), source=str(file))


def create_run(path: Path, info: RunInfo, *, overwrite: bool = False) -> Run:
    """Make a new run folder.

    Raises:
        UsageError: It exists and `overwrite` is not set, or it is a folder of something else.
    """
    check_free(path, overwrite=overwrite)
    if (path / "run.json").exists():
        with Run(path).lock():
            for child in path.iterdir():
                if child.name not in (".lock", ".lock-owner"):
                    shutil.rmtree(child) if child.is_dir() else child.unlink()
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(path / "run.json", to_json(info).encode())
    return Run(path)


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a folder that a new run may not take.

    Raises:
        UsageError: It holds a run and `overwrite` is not set, or something else.
    """
    if path.exists() and any(path.iterdir()):
        if not (path / "run.json").exists():
            raise UsageError(f"{path} exists and is not a run", hint="choose another --run")
        if not overwrite:
            done = len(Run(path).steps)
            raise UsageError(
                f"{path} already exists ({done} finished step{'' if done == 1 else 's'})",
                hint="add --resume to continue, --overwrite to start again, or another --run",
            )


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open an existing run folder.

    Raises:
        UsageError: The folder is not a run.
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise UsageError(
            f"no run at {path}", hint="make one with `edgeinc train`, or give the path of a run"
        )
    return Run(path)


def remember(path: Path, *, folder: Path | None = None) -> None:
    """Note the run that a command worked on, for the next command in this folder.

    Only a convenience: where the folder cannot be written, nothing is noted.
    """
    note = (folder or Path.cwd()) / _LAST
    with suppress(OSError):
        note.parent.mkdir(exist_ok=True)
        (note.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        write_atomic(note, str(path.resolve()).encode())


def last_run(*, folder: Path | None = None) -> Path:
    """The run that the last command in this folder worked on.

    Raises:
        UsageError: No command has worked on one here, or it is gone.
    """
    note = (folder or Path.cwd()) / _LAST
    if not note.exists():
        raise UsageError("no run was used in this folder yet", hint="name one: edgeinc COMMAND RUN")
    path = Path(note.read_text(encoding="utf-8"))
    if not (path / "run.json").exists():
        raise UsageError(f"the last run, {path}, is gone", hint="name one: edgeinc COMMAND RUN")
    with suppress(ValueError):
        return path.relative_to(Path.cwd())
    return path


def sha256(path: Path) -> str:
    """Hash of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace a file so that a reader sees the old or the new content, whatever happens.

    Raises:
        RunError: The disk is full; the old file is as it was.
        OSError: Another fault of the file system.
    """
    temporary: Path | None = None
    with disk_may_fill(path):
        try:
            with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
                temporary = Path(file.name)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@contextmanager
def disk_may_fill(path: Path) -> Iterator[None]:
    """Turn "no space left" while writing `path` into one clear line.

    Raises:
        RunError: The disk, the quota or the file-size limit is exhausted.
    """
    try:
        yield
    except OSError as err:
        if err.errno not in _FULL:
            raise
        raise RunError(
            f"the disk is full: cannot write {path}",
            hint="free some space and repeat, training with --resume; what was saved is intact",
        ) from err


def _sync_folder(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder; its rename is durable by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
