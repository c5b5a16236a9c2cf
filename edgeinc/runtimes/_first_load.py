"""The first load of a file in a process of its own, for a library that may crash on it.

A crash of a native library ends the whole process without a word. So a file is loaded and run once
in a child; only one that survived is loaded here. The verdict is kept by the file's hash and by
what loads it, so that it costs once.

    survive(path, digest, who="OpenVINO 2026.4.1", command=[sys.executable, "-c", CODE, str(path)])
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgeinc import host
from edgeinc.errors import EdgeincError
from edgeinc.runs import write_atomic

TIMEOUT_S = 900


def survive(path: Path, digest: str, *, who: str, command: Sequence[str]) -> None:
    """Start a command that loads a file, unless it is known to come through.

    Args:
        path: The file, for messages.
        digest: Its sha256.
        who: What loads it, with its version.
        command: It loads the file, runs it once, and ends with 0.

    Raises:
        EdgeincError: The child crashed, failed, or took more than 15 minutes.
    """
    key = hashlib.sha256("\n".join([digest, who, *command[:-1]]).encode()).hexdigest()
    verdict = host.cache_folder() / "loads" / key
    if verdict.exists():
        return
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as err:
        raise EdgeincError(
            f"{who} took more than {TIMEOUT_S} s to load {path}", hint="use another --runtime"
        ) from err
    if _crashed(done.returncode):
        raise EdgeincError(
            f"{who} crashed with {_name(done.returncode)} while loading {path}",
            hint="use another --runtime, or export for this one: "
            "edgeinc export --precision int8 --for openvino",
        )
    if done.returncode:
        raise EdgeincError(
            f"{who} cannot load {path}: {_cause(done.stderr)}",
            hint="restore the file from a copy, or export it again",
        )
    try:
        verdict.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(verdict, f"{who}\n{path}\n".encode())
    except OSError:
        pass  # a device whose cache cannot be written to tries again each time


def _crashed(code: int) -> bool:
    """Ended by a signal; on Windows such codes are NTSTATUS values, far above any exit code."""
    return code < 0 or (os.name == "nt" and code > 0xFFFF)


def _name(code: int) -> str:
    if code < 0 and -code in set(signal.Signals):
        return signal.Signals(-code).name
    return hex(code)


def _cause(text: str) -> str:
    """The last line that says something: what a Python traceback ends with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
