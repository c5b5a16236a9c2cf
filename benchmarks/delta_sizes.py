"""What a step costs to send, and what it scores after it was sent.

    python benchmarks/delta_sizes.py RUN [RUN ...] --data-root DIR
    python benchmarks/delta_sizes.py RUN --heads static capacity dynamic --precisions fp32 fp16

Two following steps of a run are exported; the newer file is sent to a device that holds the older
one, in every coding: as it is, packed by zstd at level 19, packed against the older file
(`zstd --patch-from`), as a bsdiff (needs `bsdiff4`), and as deltas of edgeinc. What a lossy delta
leads to is another file than the exported one; it is scored on `val` as it is, with ONNX Runtime.
Bits count per weight of floating point. Interrupted, the same command continues: files and finished
lines are kept. No times: they are not what this is about.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import bsdiff4

import edgeinc
from edgeinc import host
from edgeinc.runtimes._onnx_file import float_weights, head_weights
from edgeinc.update._zstd import compress
from edgeinc.update.delta import BITS, EXACT_ONLY, LEVEL, codec, decode, encode

HERE = Path(__file__).parent
LOSSLESS = ("plain copy", "zstd-19", "zstd-19 patch-from", "bsdiff", codec(EXACT_ONLY))
CODINGS = (*LOSSLESS, *map(codec, BITS))
KEY = ("run", "step", "head", "precision", "size", "coding")


def main() -> None:
    """Measure what is missing, and write after every line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--step", type=int, default=1, help="sent to a device with the one before")
    parser.add_argument("--heads", nargs="+", default=["dynamic"])
    parser.add_argument("--capacity", type=int, default=32)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "fp16"])
    parser.add_argument("--data", default="camvid")
    parser.add_argument("--data-root", help="folder that holds camvid/")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=HERE / "runs" / "delta_sizes")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "delta_sizes.csv")
    options = parser.parse_args()
    for run in options.runs:
        for head in options.heads:
            for precision in options.precisions:
                for line in lines_of(run, head, precision, options):
                    write(line, options.out)
                    sys.stdout.write("  ".join(map(str, line.values())) + "\n")


def lines_of(
    run: Path, head: str, precision: str, options: argparse.Namespace
) -> Iterator[dict[str, object]]:
    """The lines of one pair of files that are not there yet, one for each coding."""
    opened = edgeinc.open_run(run)
    step = opened.step(options.step)
    key = {
        "run": f"{run.parent.name}/{run.name}",
        "step": step.index,
        "head": head,
        "precision": precision,
        "size": "x".join(map(str, opened.info.size)),
    }
    missing = [c for c in CODINGS if not there({**key, "coding": c}, options.out)]
    if not missing:
        return
    paths = [
        exported(run, index, head, precision, options) for index in (step.index - 1, step.index)
    ]
    old, new = (path.read_bytes() for path in paths)
    weights = sum(values.size for _, values in float_weights(new))
    scores = {hashlib.sha256(new).hexdigest(): score(paths[1], options)}
    exact = next(iter(scores.values()))
    facts = host.host()
    for coding in missing:
        blob, content = coded(coding, old, new)
        digest = hashlib.sha256(content).hexdigest()
        if digest not in scores:
            path = paths[1].with_suffix(f".{coding}.onnx")
            path.write_bytes(content)
            scores[digest] = score(path, options)
        yield {
            **key,
            "coding": coding,
            "method": step.method,
            "model": opened.info.model,
            "weights": weights,
            "bytes": len(blob),
            "bits_per_weight": f"{8 * len(blob) / weights:.3f}",
            "miou": f"{scores[digest]:.3f}",
            "change": f"{scores[digest] - exact:+.3f}",
            "versions": " ".join(f"{k}={v}" for k, v in facts.versions.items()),
        }


def exported(run: Path, step: int, head: str, precision: str, options: argparse.Namespace) -> Path:
    """The file of a step, made where it is not there."""
    path: Path = options.work / f"{run.parent.name}.{run.name}" / f"{step}.{precision}.{head}.onnx"
    if not path.exists():
        edgeinc.export(
            run,
            step=step,
            head=head,
            capacity=options.capacity,
            precision=precision,
            limit=0,
            data_root=options.data_root,
            out=path,
        )
    return path


def coded(coding: str, old: bytes, new: bytes) -> tuple[bytes, bytes]:
    """What is sent, and the file that it leads to."""
    if coding == "plain copy":
        return new, new
    if coding == "zstd-19":
        return compress(new, LEVEL), new
    if coding == "zstd-19 patch-from":
        return compress(new, LEVEL, prefix=old), new
    if coding == "bsdiff":
        return bsdiff4.diff(old, new), new
    bits = next(b for b in (*BITS, EXACT_ONLY) if codec(b) == coding)
    blob, content = encode(old, new, bits=bits, keep=head_weights(new))
    digest = hashlib.sha256(content).hexdigest()
    assert decode(old, blob, expected_sha256=digest, limit_bytes=len(content)) == content
    return blob, content


def score(path: Path, options: argparse.Namespace) -> float:
    """mIoU of all classes on `val`, percent, by ONNX Runtime."""
    found = edgeinc.evaluate(
        path, data=options.data, data_root=options.data_root, device="cpu", threads=options.threads
    )
    assert found.miou.all is not None
    return found.miou.all


def there(key: dict[str, object], out: Path) -> bool:
    """Whether a line is in the table."""
    return any(all(line[k] == str(key[k]) for k in KEY) for line in read(out))


def read(out: Path) -> list[dict[str, str]]:
    """The lines of the table."""
    if not out.exists():
        return []
    with out.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(line: dict[str, object], out: Path) -> None:
    """Add a line to the table."""
    lines = [*read(out), line]
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
