"""docs/your-own-data.md: from a CVAT export and published weights to an exported network."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgeinc.data import open_dataset
from edgeinc.data._scenario import load_scenario
from edgeinc.data._select import candidates

PAGE = Path(__file__).parents[1] / "docs" / "your-own-data.md"
CONE, BARRIER = (250, 120, 10), (10, 120, 250)


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The two files that the page begins with."""
    root = tmp_path_factory.mktemp("own")
    write_export(root / "export.zip")
    write_release(root / "erfnet_pretrained.pth")
    return root


def write_export(path):
    """CVAT's "Segmentation mask 1.1" of one task: coloured boxes on noise."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
            f"barrier:{','.join(map(str, BARRIER))}::\n"
            f"traffic cone:{','.join(map(str, CONE))}::\n",
        )
        names = [f"gate 2/frame {i:02}" for i in range(20)]
        archive.writestr("ImageSets/Segmentation/default.txt", "\n".join(names) + "\n")
        for name in names:
            image = rng.integers(0, 90, (64, 128, 3)).astype(np.uint8)
            mask = np.zeros((64, 128, 3), np.uint8)
            for color in (CONE, BARRIER):
                top, left = rng.integers(0, 40), rng.integers(0, 100)
                part = np.s_[top : top + 20, left : left + 24]
                image[part], mask[part] = color, color
            for place, suffix, pixels in (
                ("JPEGImages", "jpg", image),
                ("SegmentationClass", "png", mask),
            ):
                content = cv2.imencode(f".{suffix}", np.ascontiguousarray(pixels[..., ::-1]))[1]
                archive.writestr(f"{place}/{name}.{suffix}", content.tobytes())


def write_release(path):
    """Random weights under the names of the ERFNet release, 19 classes and a last one for void."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def conv(name, *shape):
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / 30
        state[f"{name}.bias"] = torch.zeros(shape[0])

    def norm(name, channels):
        for key, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"{name}.{key}"] = torch.full((channels,), float(value))

    def block(name, c):
        for i in (1, 2):
            conv(f"{name}.conv3x1_{i}", c, c, 3, 1)
            conv(f"{name}.conv1x3_{i}", c, c, 1, 3)
            norm(f"{name}.bn{i}", c)

    def down(name, inputs, outputs):
        conv(f"{name}.conv", outputs - inputs, inputs, 3, 3)
        norm(f"{name}.bn", outputs)

    def up(name, inputs, outputs):
        state[f"{name}.conv.weight"] = (
            torch.randn((inputs, outputs, 3, 3), generator=generator) / 30
        )
        state[f"{name}.conv.bias"] = torch.zeros(outputs)
        norm(f"{name}.bn", outputs)

    encoder, decoder = "module.encoder.layers", "module.decoder.layers"
    down("module.encoder.initial_block", 3, 16)
    down(f"{encoder}.0", 16, 64)
    for i in range(1, 6):
        block(f"{encoder}.{i}", 64)
    down(f"{encoder}.6", 64, 128)
    for i in range(7, 15):
        block(f"{encoder}.{i}", 128)
    conv("module.encoder.output_conv", 20, 128, 1, 1)
    for i, inputs, outputs in ((0, 128, 64), (3, 64, 16)):
        up(f"{decoder}.{i}", inputs, outputs)
        block(f"{decoder}.{i + 1}", outputs)
        block(f"{decoder}.{i + 2}", outputs)
    state["module.decoder.output_conv.weight"] = torch.randn((16, 20, 2, 2), generator=generator)
    state["module.decoder.output_conv.bias"] = torch.zeros(20)
    torch.save(state, path)


def test_the_plan_of_the_page_is_one(folder, tmp_path):
    text = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "plan.toml").write_text(text, encoding="utf-8")
    plan = load_scenario(str(tmp_path / "plan.toml"))
    assert [step.classes for step in plan.steps] == [("road", "sky"), ("traffic cone",)]
    data = open_dataset(folder / "export.zip")
    assert candidates(data, plan.steps[1]) == data.ids("train")


def test_the_page_runs_command_by_command(folder):
    bin_folder = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
        "EDGEINC_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    for command in commands():
        # The page's size and epochs are for learning something; here the path is tried.
        quick = command.replace("256x512", "64x128").replace("--epochs 20", "--epochs 1")
        done = subprocess.run(
            quick, shell=True, cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    run = folder / "runs" / "street"
    step = json.loads((run / "step-2" / "step.json").read_text())
    assert [c["name"] for c in step["classes"]][-2:] == ["traffic cone", "barrier"]
    assert len(step["classes"]) == 21
    assert step["classes"][0]["name"] == "road"
    assert (folder / "sheet.png").stat().st_size > 1000
    assert (folder / "cones" / "classes.toml").is_file()
    assert list((run / "export").glob("*.onnx"))
