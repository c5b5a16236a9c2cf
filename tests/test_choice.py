"""A benchmark recommends the fastest variant that decides as the network, and says what it saw."""

import shutil

import numpy as np
import pytest

from edgeinc import host
from edgeinc.cli import main
from edgeinc.deploy._choice import judge
from edgeinc.deploy._tables import csv_text, findings, markdown
from edgeinc.deploy.bench import bench
from edgeinc.schema import BenchResult, BenchRow, Host, from_json, to_json

HOST = Host("Linux x86_64", "3.11", "EPYC", 2, 8.0, {})
FILE = "r/export/step-1.fp32.onnx"


def row(runtime, precision="fp32", *, fps=10.0, agreement=99.95, file=FILE, scope="e2e", **more):
    start = (file, runtime, "CPU", precision, scope, more.pop("size", (64, 96)), 2, "ok")
    reference = {} if agreement is None else {"reference": "torch"}
    return BenchRow(*start, fps=fps, p50_ms=1000 / fps, agreement=agreement, **reference, **more)


def torch_row(fps=5.0, **more):
    return row("torch", fps=fps, agreement=None, file="r/step-1", gate="reference", **more)


def judged(*rows, noise=False, networks=None):
    result = BenchResult(rows, HOST, {}, "2026-05-04T12:30:00Z")
    of = {(r.artifact, r.runtime): ("r", 1) for r in rows} | (networks or {})
    return judge(result, of, "e2e", noise=noise)


def gates(result):
    return {r.runtime: r.gate for r in result.rows}


@pytest.mark.parametrize(
    ("precision", "agreement", "verdict"),
    [
        ("fp32", 99.91, "met"),
        ("fp32", 99.89, "missed: 99.89 % of pixels are decided as by torch, the gate is 99.9 %"),
        ("fp16", 99.51, "met"),
        ("fp16", 99.4, "missed: 99.40 % of pixels are decided as by torch, the gate is 99.5 %"),
        ("bf16", 99.51, "met"),
        ("bf16", 99.4, "missed: 99.40 % of pixels are decided as by torch, the gate is 99.5 %"),
        ("fp4", 100.0, "not judged: no gate is known for fp4"),
    ],
)
def test_pixels_that_agree_have_a_gate_by_precision(precision, agreement, verdict):
    found = judged(torch_row(), row("other", precision, agreement=agreement))
    assert gates(found) == {"torch": "reference", "other": verdict}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_half_a_point_of_miou_may_be_lost(precision):
    for miou, met in ((60.0, True), (59.49, False), (59.51, True), (61.0, True)):
        found = judged(torch_row(miou=60.0), row("other", precision, miou=miou))
        assert (gates(found)["other"] == "met") is met
    assert (
        "0.51 points of mIoU below torch, the gate is 0.5"
        in gates(judged(torch_row(miou=60.0), row("other", precision, miou=59.49)))["other"]
    )


def test_int8_is_not_judged_by_pixels_alone():
    found = judged(torch_row(), row("other", "int8", fps=90.0, agreement=98.0))
    assert gates(found)["other"].startswith("not judged: the gate of int8 is on mIoU")
    assert "--data" in gates(found)["other"]
    assert [b.runtime for b in found.best] == ["torch"]


def test_the_fastest_inside_its_gate_is_best_and_the_line_has_the_figures():
    rows = [
        torch_row(5.0, miou=60.0),
        row("openvino", fps=10.0, miou=60.0, agreement=100.0),
        row("openvino_bf16", "bf16", fps=17.5, miou=59.875, agreement=99.75),
        row("onnxruntime", "int8", fps=30.0, miou=59.0, agreement=98.0),
    ]
    found = judged(*rows)
    (best,) = found.best
    assert (best.runtime, best.precision, best.fps) == ("openvino_bf16", "bf16", 17.5)
    for words in ("17.5 FPS e2e", "1.75 times openvino in fp32", "99.75 %", "gate 99.5 %"):
        assert words in best.why
    assert "mIoU 59.88, torch 60.00" in best.why
    lines = findings(found)
    assert lines[0] == f"best at 64x96: {best.why}"
    missed = "missed: 1.00 points of mIoU below torch, the gate is 0.5"
    assert lines[1] == f"{missed} (step-1.fp32 on onnxruntime)"


def test_bf16_that_misses_its_gate_or_is_slower_is_not_best():
    wrong = judged(torch_row(), row("ov"), row("bf", "bf16", fps=20.0, agreement=99.0))
    assert [b.runtime for b in wrong.best] == ["ov"]
    slower = judged(torch_row(), row("ov"), row("bf", "bf16", fps=9.0))
    assert [b.runtime for b in slower.best] == ["ov"]


def test_networks_and_sizes_are_chosen_for_each_alone():
    small, large = {"size": (64, 96)}, {"size": (128, 192)}
    rows = [
        *(torch_row(**small), row("a", fps=20.0, **small)),
        *(row("b", fps=7.0, file="r/big.onnx", **large), row("c", file="r/big.onnx", **large)),
        row("a", fps=99.0, file="x.onnx", **small),
    ]
    found = judged(*rows, networks={("x.onnx", "a"): ("x.onnx", 0)})
    assert {(b.size, b.runtime) for b in found.best} == {((64, 96), "a"), ((128, 192), "c")}
    assert len(found.best) == 2  # of x.onnx there is one variant: no choice


def test_speed_is_compared_in_the_widest_scope():
    rows = (
        *(row("a", fps=50.0, scope="io"), row("b", fps=40.0, scope="io")),
        *(row("a", fps=20.0), row("b", fps=30.0)),
    )
    assert [b.runtime for b in judged(*rows).best] == ["b"]


def test_nothing_is_recommended_on_noise():
    found = judged(torch_row(), row("a"), noise=True)
    assert found.best == ()
    assert gates(found)["a"] == "not judged: the images are noise, name real ones with --data"


def test_what_was_skipped_has_no_verdict():
    gone = BenchRow("r", "tensorrt", "", "", "e2e", (64, 96), 2, "skipped: it is gone")
    assert gates(judged(torch_row(), row("a"), gone))["tensorrt"] == ""


def test_the_choice_is_in_every_document():
    found = judged(torch_row(), row("bf", "bf16", agreement=90.0))
    assert from_json(BenchResult, to_json(found), source="bench") == found
    text = markdown(found)
    assert "| missed |" in text
    assert "- best at 64x96: step-1 on torch" in text
    assert "- missed: 90.00 % of pixels" in text
    assert "missed: 90.00 %" in csv_text(found)


# ---------------------------------------------------------------------------------- real files


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgeinc.host.cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def run(_base_run, tmp_path_factory):
    """A trained run with an exported file, which the tests only read."""
    pytest.importorskip("onnxruntime")
    from edgeinc.deploy.export import export

    copy = tmp_path_factory.mktemp("choice") / "run"
    shutil.copytree(_base_run, copy)
    export(copy)
    return copy


FAST = {"duration": 0.1, "threads": 1, "scopes": ["io"]}


@pytest.mark.skipif(not host.computes_bf16(), reason="the processor has no bf16")
def test_bf16_is_judged_by_the_pixels_that_its_session_decides(run, street_data, tmp_path):
    pytest.importorskip("openvino")
    from edgeinc.data import open_dataset
    from edgeinc.runtimes import open_artifact

    names = ["torch", "openvino", "openvino_bf16"]
    out = tmp_path / "b.json"
    found = bench(run, runtimes=names, data=street_data, limit=4, out=out, **FAST)
    rows = {r.runtime: r for r in found.rows}
    bf16 = rows["openvino_bf16"]
    dataset = open_dataset(street_data)
    images = np.stack([dataset.image(i) for i in dataset.ids("val")])
    with (
        open_artifact(run, runtime="torch", device="cpu") as network,
        open_artifact(bf16.artifact, runtime="openvino_bf16", threads=1) as session,
    ):
        same = [(network.run(x[None]) == session.run(x[None])).mean() for x in images]
    assert bf16.agreement == pytest.approx(100 * np.mean(same))
    inside = bf16.agreement >= 99.5 and rows["torch"].miou - bf16.miou <= 0.5
    assert (bf16.gate == "met") is inside
    assert (bf16.precision, bf16.reference) == ("bf16", "torch")
    assert rows["openvino"].gate == "met"
    (best,) = found.best
    fitting = [r for r in found.rows if r.gate in ("met", "reference")]
    assert best.runtime == max(fitting, key=lambda r: r.fps).runtime


def test_without_torch_the_same_file_in_fp32_is_the_reference(run, python, street_data, tmp_path):
    pytest.importorskip("openvino")
    file, out = run / "export" / "step-0.fp32.onnx", tmp_path / "b.json"
    code = (
        "import edgeinc\n"
        f"edgeinc.bench({str(file)!r}, runtimes=['onnxruntime', 'openvino'], out={str(out)!r},\n"
        f"    data={str(street_data)!r}, limit=2, **{FAST!r})\n"
    )
    done = python("-c", code, without=["torch"])
    assert done.returncode == 0, done.stderr
    found = from_json(BenchResult, out.read_bytes(), source="b")
    rows = {r.runtime: r for r in found.rows}
    assert rows["onnxruntime"].gate == "reference"
    assert (rows["openvino"].gate, rows["openvino"].reference) == ("met", "onnxruntime in fp32")
    assert rows["openvino"].agreement > 99.9
    assert len(found.best) == 1


def test_the_command_names_the_best_and_what_is_not_judged(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(
            f"bench {run} --runtime torch,onnxruntime --duration 0.1 --threads 1 --scope io "
            "-o b.json".split()
        )
    out = capsys.readouterr().out
    assert ended.value.code == 0
    best = from_json(BenchResult, (tmp_path / "b.json").read_bytes(), source="b").best
    assert f"best at 64x96: {best[0].why}" in out
    assert "gate" in out
