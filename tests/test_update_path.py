"""A benchmark of a later step says what it takes to come there from the step before."""

import csv
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import edgeinc
from edgeinc.cli import main
from edgeinc.deploy._tables import csv_text, markdown
from edgeinc.deploy._update_path import before
from edgeinc.deploy.bench import bench
from edgeinc.deploy.plan_update import plan_update
from edgeinc.registry import load

FAST = {"duration": 0.1, "threads": 1, "scopes": ["io"]}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def run(_base_run, tmp_path_factory):
    """Step 1 trains a classifier only; both steps dynamic, the newer one also static."""
    folder = tmp_path_factory.mktemp("path") / "run"
    shutil.copytree(_base_run, folder)
    edgeinc.extend(folder, new_classes=["car"], method="linear")
    for step in (0, 1):
        edgeinc.export(folder, step=step, head="dynamic")
    edgeinc.export(folder)
    return folder


def test_the_way_its_bytes_its_seconds_and_no_frame_lost(run, tmp_path):
    found = bench(run, runtimes=["onnxruntime", "torch"], out=tmp_path / "b.json", **FAST)
    rows = {Path(r.artifact).name: r for r in found.rows}
    row = rows["step-1.fp32.dynamic.onnx"]
    old = run / "export" / "step-0.fp32.dynamic.onnx"
    plan = plan_update(old, row.artifact)
    assert row.update_from == str(old)
    assert (row.update_way, row.update_bytes, row.update_why) == ("head", plan.bytes, plan.reason)
    assert 0 < row.update_s < 30
    assert row.update_lost == 0
    static = rows["step-1.fp32.onnx"]
    assert (static.update_way, static.update_s) == ("", None)
    assert static.update_why == "not measured, step-0.fp32.onnx is not beside it"
    assert rows["step-1"].update_from == ""  # torch: there is no file that is exchanged


def test_it_is_in_every_table(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = run / "export" / "step-1.fp32.dynamic.onnx"
    found = bench(file, out="b.json", **FAST)
    (read,) = csv.DictReader(csv_text(found).splitlines())
    (row,) = found.rows
    assert (read["update_way"], int(read["update_bytes"])) == ("head", row.update_bytes)
    assert float(read["update_s"]) == row.update_s
    text = markdown(found)
    header, _, first = text.splitlines()[:3]
    cells = dict(zip(header.split("|"), first.split("|"), strict=True))
    assert cells[" update "] == " head "
    assert cells[" update bytes "] == f" {row.update_bytes} "
    assert cells[" frames lost "] == " 0 "
    assert "- update from step-0.fp32.dynamic.onnx: only the rows" in text
    with pytest.raises(SystemExit) as ended:
        main(f"bench {file} --duration 0.1 --threads 1 --scope io".split())
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert "from the step before" in out
    assert "frames lost" in out
    assert f"{row.update_bytes:,}" in out


def test_a_file_that_cannot_take_the_place_says_why(run, tmp_path):
    for step in (0, 1):
        name = f"step-{step}.fp32.dynamic.onnx"
        shutil.copy(run / "export" / name, tmp_path / name)  # without cards
    content = (tmp_path / "step-0.fp32.dynamic.onnx").read_bytes()
    assert content.count(b'"road"') == 1
    (tmp_path / "step-0.fp32.dynamic.onnx").write_bytes(content.replace(b'"road"', b'"rail"'))
    found = bench(tmp_path / "step-1.fp32.dynamic.onnx", out=tmp_path / "b.json", **FAST)
    (row,) = found.rows
    assert row.status in ("ok", "unstable")
    assert (row.update_way, row.update_s, row.update_lost) == ("", None, None)
    assert "not measured, " in row.update_why
    assert "it was rail" in row.update_why


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step-2.fp32.dynamic.onnx", "step-1.fp32.dynamic.onnx"),
        ("step-10.int8.onnx", "step-9.int8.onnx"),
        ("step-0.fp32.onnx", None),
        ("model.onnx", None),
        ("step-x.onnx", None),
    ],
)
def test_the_step_before_is_known_by_its_name(tmp_path, name, expected):
    found = before(tmp_path / name)
    assert found == (expected and tmp_path / expected)


def test_what_bf16_exchanges_is_what_f32_exchanges():
    f32, bf16 = (load("runtimes", name).ways() for name in ("openvino", "openvino_bf16"))
    assert f32 == bf16 == ("head", "reload")
