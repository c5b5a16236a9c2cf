"""How long a device takes from a fresh Python to an opened artifact, and what stays in memory.

    python benchmarks/device_start.py
    python benchmarks/device_start.py --size 512x1024 --times 30

Each time a new process imports `edgeinc.runtimes` and opens a full ERFNet of eleven classes in ONNX
Runtime on the CPU; weights are untrained, which costs what trained ones do. Seconds are those of
import and opening, without the start of Python; `cpu_seconds` are those that its threads computed,
which a busy machine lengthens less (`load_median` says how busy it was). The first process of all
fills the disk cache and does not count. Memory is resident, after opening and at its peak.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from eval_overhead import untrained

from edgeinc import config, host
from edgeinc.data import open_dataset
from edgeinc.deploy.export import export

CHILD = """
import sys
from time import perf_counter, process_time
start, computed = perf_counter(), process_time()
import edgeinc.runtimes
with edgeinc.runtimes.open_artifact(sys.argv[1], runtime="onnxruntime", device="cpu") as session:
    seconds, computed = perf_counter() - start, process_time() - computed
    import json, pathlib
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    kb = {k: int(v.split()[0]) for k, _, v in (x.partition(":") for x in lines) if k[:2] == "Vm"}
    heavy = [m for m in ("torch", "onnx", "openvino", "tensorrt") if m in sys.modules]
    print(json.dumps({
        "seconds": seconds,
        "cpu_seconds": computed,
        "resident_mb": kb["VmRSS"] * 1024 / 1e6,
        "peak_mb": kb["VmHWM"] * 1024 / 1e6,
        "heavy": heavy,
        "classes": len(session.table.classes),
    }))
"""
"""What a device does; Linux only, as it asks the kernel for its memory."""


def artifact(folder: Path, size: str) -> Path:
    """An exported ERFNet, untrained, in its full width."""
    run = untrained(folder / "run", config.parse_size(size), open_dataset("streets"))
    return Path(export(run.path, limit=0).path)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--times", type=int, default=20)
    default = Path(__file__).parent / "results" / "device_start.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        path = artifact(Path(folder), options.size)
        found = [opened(path) for _ in range(options.times + 1)][1:]
        size = path.stat().st_size
    write(options, found, size)


def opened(path: Path) -> dict[str, object]:
    """What one process tells."""
    command = [sys.executable, "-c", CHILD, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {**json.loads(done.stdout), "load": os.getloadavg()[0]}


def write(options: argparse.Namespace, found: list[dict[str, object]], size: int) -> None:
    """One line; earlier ones of other sizes or machines are kept."""
    facts = host.host()

    def column(name: str) -> list[float]:
        return sorted(float(one[name]) for one in found)

    line = {
        "model": "erfnet",
        "classes": found[0]["classes"],
        "size": options.size,
        "file_mb": f"{size / 1e6:.1f}",
        "processes": len(found),
        "seconds_min": f"{column('seconds')[0]:.3f}",
        "seconds_median": f"{median(column('seconds')):.3f}",
        "cpu_seconds_min": f"{column('cpu_seconds')[0]:.3f}",
        "cpu_seconds_median": f"{median(column('cpu_seconds')):.3f}",
        "resident_mb": f"{column('resident_mb')[-1]:.0f}",
        "peak_mb": f"{column('peak_mb')[-1]:.0f}",
        "heavy": " ".join(sorted({str(m) for one in found for m in one["heavy"]})) or "none",
        "load_median": f"{median(column('load')):.1f}",
        "hardware": f"{facts.cpu}, {facts.cores} cores",
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": " ".join(f"{k}={v}" for k, v in facts.versions.items()),
    }
    rows = []
    if options.out.exists():
        with options.out.open(encoding="utf-8", newline="") as file:
            same = ("model", "size", "hardware")
            rows = [r for r in csv.DictReader(file) if any(r[k] != str(line[k]) for k in same)]
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, line])
    for key, value in line.items():
        sys.stdout.write(f"{key:>18}  {value}\n")


if __name__ == "__main__":
    main()
