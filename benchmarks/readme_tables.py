"""Write the tables of README and docs from the results: `python benchmarks/readme_tables.py`."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
DOCS = HERE.parent / "docs"
PAGES = (README, DOCS / "methods-compared.md", DOCS / "deploying.md", DOCS / "publishing.md")


def read(name: str) -> list[dict[str, str]]:
    """The lines of a result file."""
    with (HERE / "results" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


EPOCHS = "60"
"""Of the tables; other rows of the file are of the tables that say so."""
MAIN = ("joint", "own labels", "finetune", "lwf", "mib", "cil", "hrhf", "dkd", "ejt")


def camvid_main() -> str:
    """CamVid in three tasks with ERFNet: the main rows."""
    return camvid("erfnet", MAIN)


def camvid_erfnet() -> str:
    """Every row."""
    return camvid("erfnet")


def camvid_bisenet() -> str:
    """Every row that was trained with BiSeNet."""
    return camvid("bisenet")


def camvid_short() -> str:
    """Half of the epochs, half of the learning rate."""
    return camvid("erfnet", epochs="30")


def camvid_thirds() -> str:
    """The steps see different streets."""
    return camvid("erfnet", blocks="1")


def camvid(
    model: str, names: Sequence[str] = (), *, blocks: str = "4", epochs: str = EPOCHS
) -> str:
    """CamVid in three tasks: the mean over seeds of every row, or of those named."""
    lines = [
        r
        for r in read("camvid_3task")
        if (r["model"], r["blocks"], r["epochs"]) == (model, blocks, epochs)
        and (not names or r["row"] in names)
    ]
    table = [
        "| row | after step 1 | sky, road, pavement | building, tree | car | **after step 2** "
        "| seeds | s a step | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in dict.fromkeys(r["row"] for r in lines):
        between = [r for r in lines if (r["row"], r["step"]) == (row, "1")]
        last = [r for r in lines if (r["row"], r["step"]) == (row, "2")]
        cells = [mean_of(between, "miou"), *(mean_of(last, f"task{task}") for task in range(3))]
        cells += [f"**{mean_of(last, 'miou')}**", str(len(last))]
        cells += [mean_of([*between, *last], "seconds", 0), mean_of(last, "peak_mib", 0)]
        table.append(f"| {row} | {' | '.join(cells)} |")
    first = lines[0]
    note = (
        f"mIoU in percent over the classes so far, on the {first['scored_images']} images of `val` "
        f"at 360x480, with the standard deviation where there are several seeds; {model} at "
        f"{first['size']}, {first['epochs']} epochs a step, learning rate "
        f"{first['lr'] or '0.0005'}, {first['precision']}, "
        f"{first['threads']} thread of {first['hardware'].split(',')[0]}."
    )
    return "\n".join([*table, "", note])


def streets_methods() -> str:
    """Real background: every method in the four plans."""
    lines = read("streets_voc_style_methods")
    plans = list(dict.fromkeys((r["plan"], r["selection"]) for r in lines))
    table = [
        f"| row | {' | '.join(f'{plan} {selection}' for plan, selection in plans)} |",
        f"|---{'|---' * len(plans)}|",
    ]
    for row in dict.fromkeys(r["row"] for r in lines):
        cells = [old_new_all(last_of(lines, row, plan=p, selection=s)) for p, s in plans]
        table.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*table, "", street_conditions(lines[0])])


def streets_ablations() -> str:
    """Ablations of HRHF and DKD; `close-ups` are new images that show few old classes."""
    lines = read("streets_voc_style_ablations")
    selections = list(dict.fromkeys(r["selection"] for r in lines))
    table = [f"| row | {' | '.join(selections)} |", f"|---{'|---' * len(selections)}|"]
    for row in dict.fromkeys(r["row"] for r in lines):
        cells = [old_new_all(last_of(lines, row, selection=s)) for s in selections]
        table.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join([*table, "", street_conditions(lines[0])])


def last_of(lines: Sequence[dict[str, str]], row: str, **where: str) -> dict[str, str]:
    """The line of a row's last step; empty where there is none."""
    found = [r for r in lines if r["row"] == row and all(r[k] == v for k, v in where.items())]
    return max(found, key=lambda r: int(r["step"]), default={})


def old_new_all(line: dict[str, str]) -> str:
    """mIoU of the classes of step 0, of those after it, and of all with the background."""
    if not line:
        return ""
    iou = {k: v or 0.0 for k, v in json.loads(line["iou"]).items()}
    new = [iou[n] for n in ("car", "bus")]
    old = [v for n, v in iou.items() if n not in ("car", "bus", "background")]
    means = (*map(statistics.mean, (old, new)), float(line["miou"]))
    return " / ".join(f"{m:.1f}" for m in means)


def street_conditions(line: dict[str, str]) -> str:
    """Under which conditions these tables were made."""
    return (
        "mIoU in percent after the last step on "
        f"{line['scored_images']} scenes: classes of step 0 / car and bus / all with background; "
        f"{line['model']} at {line['size']}, {line['images_per_step']} images a step, "
        f"{line['epochs']} epochs, {line['precision']}, one seed."
    )


def mean_of(lines: Sequence[dict[str, str]], column: str, digits: int = 1) -> str:
    """Mean and, from two values on, standard deviation; "" where there is none."""
    values = [float(r[column]) for r in lines if r[column]]
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 or not digits else f"{mean} ± {statistics.stdev(values):.1f}"


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


def deploy_speed_main() -> str:
    """Exported files against what one would run without edgeinc: the plain rows and the fastest."""
    lines = read("deploy_speed")
    kept = []
    for case in dict.fromkeys((r["model"], r["size"]) for r in lines):
        of_case = [r for r in lines if (r["model"], r["size"]) == case and r["p50_ms"]]
        ours = [r for r in of_case if r["row"].startswith("edgeinc ")]
        fp32 = [
            r for r in ours if r["row"].split(", ")[0] == "edgeinc fp32" and "bf16" not in r["row"]
        ]
        best = [min(rows, key=lambda r: float(r["p50_ms"])) for rows in (fp32, ours) if rows]
        kept += [r for r in of_case if r["row"] in PLAIN_ROWS] + best
    return deploy_table(kept)


def deploy_speed() -> str:
    """Every form on every runtime."""
    return deploy_table(read("deploy_speed"))


def delta_sizes() -> str:
    """What a step costs to send, in every coding."""
    lines = read("delta_sizes")
    codings = list(dict.fromkeys(r["coding"] for r in lines))
    table = [
        f"| step 1 of | {' | '.join(c.removeprefix('ezd1-') for c in codings)} |",
        f"|---{'|---' * len(codings)}|",
    ]
    for step in dict.fromkeys((r["model"], r["method"], r["precision"]) for r in lines):
        of_step = [r for r in lines if (r["model"], r["method"], r["precision"]) == step]
        cells = {r["coding"]: sent(r) for r in of_step}
        table.append(f"| {' '.join(step)} | {' | '.join(cells[c] for c in codings)} |")
    note = (
        "Bytes, and for a delta in `edgeinc` bits for each weight and what it changes of the mIoU "
        "of the exported file, on the 101 images of `val`. Networks of "
        "[the CamVid table](methods-compared.md), head dynamic. `linear` trains nothing but the "
        "classifier. Repeat it: `python benchmarks/delta_sizes.py RUN --data-root DIR`."
    )
    return "\n".join([*table, "", note])


def sent(line: dict[str, str]) -> str:
    """Size of one coding."""
    size = int(line["bytes"])
    text = f"{size / 1e6:.2f} MB" if size > 1e5 else f"{size:,} bytes"
    if not line["coding"].startswith("ezd1"):
        return text
    return f"{text}, {float(line['bits_per_weight']):.2f} bits, {float(line['change']):+.2f}"


PLAIN_ROWS = ("plain eager", "plain file, onnxruntime", "plain file, openvino")


def deploy_table(lines: Sequence[dict[str, str]]) -> str:
    """One row for every variant of a network and size."""
    table = [
        "| network, size | variant | p50 | eager / it | file in ONNX Runtime / it "
        "| file in OpenVINO / it | of the matrix rate | mIoU lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in lines:
        lost = ""
        if r["miou"]:
            lost = f"{float(r['torch_miou']) - float(r['miou']):+.2f}"
        time, rate = (f"{r['p50_ms']} ms", f"{r['matrix_percent']} %") if r["p50_ms"] else ("", "")
        if r["gate"] == "not met":
            lost += ", gate not met"
        cells = [f"{r['model']}, {r['size']}", r["row"], time]
        cells += [r["against_eager"], r["against_onnxruntime"], r["against_openvino"], rate, lost]
        table.append(f"| {' | '.join(cells)} |")
    first = lines[0]
    note = (
        f"Medians of interleaved turns, batch 1, {first['threads']} threads of "
        f"{first['hardware']}; ids in memory, normalisation and argmax included in every row. "
        "`plain` is what one runs without edgeinc; OpenVINO's default computes in bf16 here. "
        "The matrix rate is what a large fp32 matrix product reached at that moment: "
        f"{first['matrix_gflops']} GFLOP/s."
    )
    return "\n".join([*table, "", note])


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        camvid_main,
        camvid_erfnet,
        camvid_bisenet,
        camvid_short,
        camvid_thirds,
        streets_methods,
        streets_ablations,
        train_speed,
        deploy_speed_main,
        deploy_speed,
        delta_sizes,
    )
}


def with_tables(text: str) -> str:
    """A page with every table in it made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
