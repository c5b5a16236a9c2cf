"""Write the README's tables from the committed results: `python benchmarks/readme_tables.py`."""

from __future__ import annotations

import csv
import re
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"


def read(name: str) -> list[dict[str, str]]:
    """The lines of a result file."""
    with (HERE / "results" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def camvid_3task() -> str:
    """The plan `coarse`: every row after its last step, the tasks and the union."""
    lines = [r for r in read("camvid_3task") if r["plan"] == "coarse"]
    last = max(int(r["step"]) for r in lines)
    names = list(dict.fromkeys(r["row"] for r in lines))
    table = [
        "| row | union after step 1 | sky, road, pavement | building, tree | car | **union** |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        steps = {int(r["step"]): r for r in lines if r["row"] == name}
        if last not in steps:
            continue
        end = steps[last]
        between = steps[1]["miou"] if 1 in steps else ""
        cells = [between, end["task0"], end["task1"], end["task2"]]
        shown = " | ".join(f"{float(c):.1f}" if c else "" for c in cells)
        table.append(f"| {name} | {shown} | **{float(end['miou']):.1f}** |")
    first = lines[0]
    note = (
        f"mIoU in percent on the {first['scored_images']} images of `val` at 360x480. "
        f"{first['model']} at {first['size']}, {first['epochs']} epochs a step, one seed, "
        f"{first['precision']}, {first['threads']} thread of {first['hardware'].split(',')[0]}. "
        "`joint` has all labels of all images and the epochs of one step; `fresh` starts every "
        "extension from new weights, the other rows from the step before. Per class, with seconds "
        "and versions: [benchmarks/results/camvid_3task.csv](benchmarks/results/camvid_3task.csv). "
        "Repeat it: `python benchmarks/camvid_3task.py --data-root DIR`, where DIR holds `camvid/`."
    )
    return "\n".join([*table, "", note])


def train_speed() -> str:
    """Every machine that was measured."""
    table = [
        "| size | threads | turns | plain fp32 loop | `edgeinc extend` | ratio "
        "| waiting for data |",
        "|---|---|---|---|---|---|---|",
    ]
    lines = read("train_speed")
    for r in lines:
        cells = [r["size"], r["threads"], r["turns"], f"{r['plain_ms']} ms"]
        cells += [
            f"{r['edgeinc_ms']} ms",
            f"**{r['ratio']}** ({r['ratio_low']} to {r['ratio_high']})",
        ]
        table.append(f"| {' | '.join([*cells, r['wait_for_data_percent']])} % |")
    note = (
        f"One iteration of CIL's second step, ERFNet, batch {lines[0]['batch']}, medians over "
        f"interleaved turns on {lines[0]['hardware']}. The ratio comes from "
        "bf16, channels-last, a teacher with folded BatchNorm, a fused optimiser, and images that "
        "are kept decoded and prepared ahead. "
        "Repeat it: `python benchmarks/train_speed.py --data-root DIR`."
    )
    return "\n".join([*table, "", note])


def with_tables(text: str) -> str:
    """The README with every table made anew."""
    for table in (camvid_3task, train_speed):
        pattern = rf"(<!-- table: {table.__name__} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda m, t=table: f"{m[1]}{t()}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
