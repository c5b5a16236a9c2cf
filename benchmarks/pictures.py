"""Draw the results of CamVid in three tasks: `python benchmarks/pictures.py`.

For each network a panel: mIoU over all classes after the last step, a bar for the mean of every row
and a dot for every seed, joint training as the line that the others are held against.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib
from readme_tables import DOCS, EPOCHS, read

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PANELS = {"erfnet": "ERFNet", "bisenet": "BiSeNet, ResNet-18"}
SHOWN = ("ejt", "cil", "hrhf", "dkd", "mib", "lwf", "finetune")
GREY, BLUE, DARK = "#b9c4cf", "#1769aa", "#222222"


def main() -> None:
    """Write `docs/images/camvid.png`."""
    figure, panels = plt.subplots(1, len(PANELS), figsize=(9, 2.8), sharex=True)
    for axes, (model, title) in zip(panels, PANELS.items(), strict=True):
        draw(axes, ends(model), title)
    figure.supxlabel("mIoU after the third task, %", fontsize=9)
    figure.tight_layout()
    target: Path = DOCS / "images" / "camvid.png"
    figure.savefig(target, dpi=130)


def ends(model: str) -> dict[str, list[float]]:
    """mIoU after the last step, by row, one for each seed."""
    found: dict[str, list[float]] = {}
    for line in read("camvid_3task"):
        where = (line["model"], line["blocks"], line["epochs"], line["step"])
        if where == (model, "4", EPOCHS, "2"):
            found.setdefault(line["row"], []).append(float(line["miou"]))
    return found


def draw(axes: Axes, found: dict[str, list[float]], title: str) -> None:
    """One panel."""
    rows = sorted((r for r in SHOWN if r in found), key=lambda r: statistics.mean(found[r]))
    for place, row in enumerate(rows):
        mean = statistics.mean(found[row])
        ours, inside = row == "ejt", mean > 10
        axes.barh(place, mean, color=BLUE if ours else GREY, height=0.7)
        axes.plot(found[row], [place] * len(found[row]), "o", color=DARK, markersize=3)
        color = "white" if ours and inside else DARK
        where = 1.5 if inside else mean + 2.5
        axes.text(where, place, f"{mean:.1f}", va="center", fontsize=8, color=color)
    joint = statistics.mean(found["joint"])
    axes.axvline(joint, color=DARK, linewidth=1, linestyle="--")
    label = {"ha": "center", "fontsize": 8, "color": DARK}
    axes.text(joint, 1.02, f"joint {joint:.1f}", transform=axes.get_xaxis_transform(), **label)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_title(title, fontsize=10, pad=14)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
