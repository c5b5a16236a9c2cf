"""Work in a process of its own, watched: a native library may crash, hang, or take all memory.

Rules: what the child says are lines of JSON on its standard output, one of `phase`, `result` or
`error`; what native libraries print goes to a file; a child that dies is one clear line with its
cause; whatever happens, no child is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import queue
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgeinc import host
from edgeinc.errors import EdgeincError, MissingError, UsageError
from edgeinc.progress import Task

SHARE = 0.9
"""Of the memory that is free when the work begins, the share a child may take unless told."""
_LOOK_EVERY_S = 0.2
_PR_SET_PDEATHSIG = 1
_ERRORS = {kind.exit_code: kind for kind in (EdgeincError, UsageError, MissingError)}


class Killed(EdgeincError):
    """The child was ended from outside, which says nothing about its work."""


def run_child(
    module: str,
    job: dict[str, Any],
    *,
    task: Task,
    memory_bytes: int | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Run a module on a job in a child and return its result.

    Args:
        module: It reads the job from standard input and answers in the lines described above.
        job: Anything that JSON can say.
        task: Told the phase, the seconds and the memory.
        memory_bytes: More resident memory than this ends the child; None allows most of what is
            free. 0 sets no limit.
        timeout_s: Longer than this ends the child; None waits for ever.

    Returns:
        What the child gave as its result, and `peak_mb` (None where the system does not tell).

    Raises:
        EdgeincError: The child failed, crashed, or needed too much memory or time.
        Killed: Something outside ended it.
        UsageError: The job asks for what cannot be done.
        MissingError: Hardware or software is not here.
    """
    limit = int(host.free_memory_bytes() * SHARE) if memory_bytes is None else memory_bytes
    with tempfile.TemporaryFile() as log, _started(module, job, log) as process:
        watch = _Watch(process, limit, task, timeout_s)
        answer = watch.until_end()
        log.seek(0)
        tail = _last_line(log.read())
    if "result" in answer:
        return {**answer["result"], "peak_mb": watch.peak_mb}
    if "error" in answer:
        error = answer["error"]
        raise _ERRORS.get(error["exit_code"], EdgeincError)(error["message"], hint=error["hint"])
    raise _death(process.returncode, watch.phase, tail)


def command(module: str) -> list[str]:
    """What runs a module in a child of this process that does not outlive it.

    A parent that is killed cannot clean up, and what its child computes nobody waits for. Linux
    alone can do that; elsewhere the child ends its work.
    """
    return [sys.executable, "-m", "edgeinc.child", str(os.getpid()), module]


def _bound(parent: int, module: str) -> None:
    """Be a module, and be killed when the parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before that
            os.kill(os.getpid(), signal.SIGKILL)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextlib.contextmanager
def _started(module: str, job: dict[str, Any], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command(module),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it may have died already
            process.stdin.write(json.dumps(job).encode())
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class _Watch:
    """Looks at a child until it ends."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        limit: int,
        task: Task,
        timeout_s: float | None,
    ) -> None:
        self.phase = "start"
        self._process, self._limit, self._task = process, limit, task
        self._timeout_s = timeout_s
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._peak = 0
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def peak_mb(self) -> float | None:
        return round(self._peak / 1e6, 1) if self._peak else None

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # closed under us when the parent gives up
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def until_end(self) -> dict[str, Any]:
        """The child's last word; {} when it died without one."""
        start, answer = time.monotonic(), {}
        shown = 0
        while True:
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=_LOOK_EVERY_S)
                if line is None:
                    break
                said = json.loads(line)
                if "phase" not in said:
                    answer = said
                    continue
                self.phase = said["phase"]
            self._check_memory()
            seconds = int(time.monotonic() - start)
            if self._timeout_s is not None and seconds >= self._timeout_s:
                raise EdgeincError(
                    f"stopped: it took more than {self._timeout_s:.0f} s (while: {self.phase})",
                    hint="repeat when the machine has less to do",
                )
            if seconds != shown:
                shown = seconds
                memory = f", {self._peak // 10**6} MB" if self._peak else ""
                self._task.advance(0, note=f"{seconds} s{memory}, {self.phase}")
        self._process.wait()
        return answer

    def _check_memory(self) -> None:
        resident = _resident(self._process.pid)
        self._peak = max(self._peak, resident)
        if self._limit and resident > self._limit:
            raise EdgeincError(
                f"stopped: it needed more than {self._limit // 10**6} MB of memory "
                f"(while: {self.phase})",
                hint="end other programs, add swap, or allow more with --memory MB",
            )


def _resident(pid: int) -> int:
    """Bytes of a process that are in memory now; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _death(code: int, phase: str, tail: str) -> EdgeincError:
    """A child that ended without a word."""
    said = f"; its last words: {tail}" if tail else ""
    if code == -signal.SIGTERM or (os.name == "posix" and code == -signal.SIGKILL):
        return Killed(
            f"it was killed from outside (while: {phase}): most likely memory ran out{said}",
            hint="end other programs or add swap, then repeat; `dmesg | tail` tells who killed it",
        )
    if code < 0:
        name = signal.Signals(-code).name
        return EdgeincError(
            f"the library crashed with {name} (while: {phase}){said}",
            hint="repeat; if it stays, see `edgeinc doctor --for device` and report it",
        )
    return EdgeincError(
        f"it ended with exit code {code} (while: {phase}){said}",
        hint="repeat; if it stays, report it",
    )


def _last_line(log: bytes) -> str:
    lines = log.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


if __name__ == "__main__":
    _parent, _module = int(sys.argv[1]), sys.argv[2]
    sys.argv = sys.argv[2:]
    _bound(_parent, _module)
