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


def methods(model: str, blocks: str, names: Sequence[str] = ()) -> str:
    """CamVid in three tasks: the mean over seeds of every row, or of those named."""
    lines = [r for r in read("camvid_3task") if (r["model"], r["blocks"]) == (model, blocks)]
    rows = list(dict.fromkeys(r["row"] for r in lines if not names or r["row"] in names))
    table = [
        "| row | union after step 1 | task 0 | task 1 | task 2 | **union** | seeds | s a step | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        steps = {k: [r for r in lines if (r["row"], r["step"]) == (row, k)] for k in "12"}
        cells = [mean_of(steps["1"], "miou")]
        cells += [mean_of(steps["2"], f"task{task}") for task in range(3)]
        cells.append(f"**{mean_of(steps['2'], 'miou')}**")
        cells.append(str(len(steps["2"])))
        cells.append(mean_of(steps["1"] + steps["2"], "seconds", 0))
        cells.append(mean_of(steps["2"], "peak_mib", 0))
        table.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*table, "", f"{conditions(lines[0])}."])


def conditions(line: dict[str, str]) -> str:
    """Under which conditions a table was made."""
    return (
        f"mIoU in percent on the {line['scored_images']} images of `val` at 360x480; "
        f"{line['model']} at {line['size']}, {line['epochs']} epochs a step, {line['precision']}, "
        f"{line['threads']} thread of {line['hardware'].split(',')[0]}"
    )


def mean_of(lines: Sequence[dict[str, str]], column: str, digits: int = 1) -> str:
    """Mean and, from two values on, standard deviation; "" where there is none."""
    values = [float(r[column]) for r in lines if r[column]]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1 or digits == 0:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


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
