"""A benchmark is compared, gated and drawn from its rows alone, and the command ends so."""

import csv
import re
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from edgeinc.cli import main
from edgeinc.deploy._chart import draw, labels
from edgeinc.deploy._compare import check, compare
from edgeinc.deploy._tables import csv_text, markdown, short_names
from edgeinc.deploy.bench import bench
from edgeinc.schema import (
    BenchResult,
    BenchRow,
    Board,
    DataRef,
    Host,
    PowerMeter,
    from_json,
    to_json,
)

HOST = Host("Linux aarch64", "3.10", "ARMv8", 6, 7.4, {}, "Orin")


def row(file="r/export/step-1.fp32.onnx", runtime="onnxruntime", scope="e2e", p50=20.0, **more):
    figures = {
        "p50_ms": p50,
        "p90_ms": 1.1 * p50,
        "p99_ms": 1.5 * p50,
        "fps": 1000 / p50,
        "cov_percent": 2.0,
        "frames": 100,
    }
    start = (file, runtime, "CPUExecutionProvider", "fp32", scope, (64, 96), 2, "ok")
    return replace(BenchRow(*start, **figures), **more)


def skipped(file, runtime, scope="e2e"):
    return BenchRow(file, runtime, "", "", scope, (64, 96), 2, "skipped: it is gone")


def result(*rows, host=HOST):
    return BenchResult(rows, host, {"e2e": "all of it"}, "2026-05-04T12:30:00Z")


def against(now, base, tolerance=5.0):
    return compare(result(*now), result(*base), path="base.json", tolerance=tolerance)


# ---------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize(
    ("now", "base", "gates"),
    [
        ([row(p50=20.9)], [row(p50=20.0)], []),
        ([row(p50=21.1)], [row(p50=20.0)], ["5.5 % slower"]),
        ([row(p50=10.0)], [row(p50=20.0)], []),
        ([row(miou=60.0)], [row(miou=60.4)], []),
        ([row(miou=59.8)], [row(miou=60.4)], ["0.6 points of mIoU lower"]),
        ([row(miou=None)], [row(miou=60.4)], []),
        ([row(p50=40.0, miou=50.0)], [row(miou=60.0)], ["100.0 % slower", "10.0 points"]),
        ([row(threads=4, p50=90.0), row()], [row()], []),
        ([row(threads=4)], [row()], ["no row of the same"]),
        ([row(provider="CUDAExecutionProvider")], [row()], ["no row of the same"]),
        ([row(scope="io")], [row()], ["no row of the same"]),
        ([row(size=(32, 96))], [row()], ["no row of the same"]),
        ([row("elsewhere/step-1.fp32.onnx", p50=90.0)], [row()], ["350.0 % slower"]),
        ([skipped("r/export/step-1.fp32.onnx", "onnxruntime")], [row()], ["ran before"]),
        ([skipped("r", "onnxruntime"), row(runtime="torch")], [row()], ["ran before"]),
        ([skipped("r", "tensorrt"), row()], [row()], []),
    ],
    ids=[
        *("within the tolerance", "slower", "faster", "noise of mIoU", "worse mIoU"),
        *("not scored now", "both", "more threads beside", "other threads", "other provider"),
        *("other scope", "other size", "moved", "skipped now", "not exported now", "never ran"),
    ],
)
def test_what_became_worse_is_named(now, base, gates):
    found = against(now, base)
    for expected in gates:
        assert any(expected in gate for gate in found.gates), found.gates
    assert bool(found.gates) == bool(gates)


def test_the_tolerance_is_the_users():
    assert against([row(p50=29.0)], [row()], tolerance=50).gates == ()
    assert len(against([row(p50=20.3)], [row()], tolerance=1).gates) == 1


def test_two_runs_with_files_of_one_name_are_told_apart_by_path():
    a, b = "a/export/step-0.fp32.onnx", "b/export/step-0.fp32.onnx"
    base = [row(a, p50=10.0), row(b, p50=40.0)]
    found = against([row(a, p50=10.0), row(b, p50=60.0)], base)
    assert [d.slower_percent for d in found.comparison.rows] == [0.0, pytest.approx(50.0)]
    assert len(found.gates) == 1


def test_another_machine_is_named():
    other = replace(HOST, gpu="", cpu="AMD EPYC", cores=2)
    found = compare(result(row()), result(row(), host=other), path="b.json", tolerance=5)
    assert "AMD EPYC, 2 cores then, Orin, 6 cores now" in found.comparison.note
    assert against([row()], [row()]).comparison.note == ""


def test_a_comparison_is_part_of_the_document():
    found = against([row(p50=30.0)], [row()])
    assert from_json(BenchResult, to_json(found), source="bench") == found


# ---------------------------------------------------------------------------------- gates


@pytest.mark.parametrize(
    ("limits", "gates"),
    [
        ({"min_fps": 49.0}, []),
        ({"min_fps": 51.0}, ["50.0 FPS, below 51"]),
        ({"max_p99": 30.5}, []),
        ({"max_p99": 29.5}, ["p99 is 30.0 ms, above 29.5"]),
        ({"min_fps": 51.0, "max_p99": 29.5}, ["50.0 FPS", "30.0 ms"]),
    ],
)
def test_a_gate_holds_for_the_widest_scope(limits, gates):
    rows = (row(scope="infer", p50=900.0), row(scope="e2e", p50=20.0))
    found = check(result(*rows), ["infer", "e2e"], **{"min_fps": None, "max_p99": None, **limits})
    assert len(found.gates) == len(gates)
    for gate, expected in zip(found.gates, gates, strict=True):
        assert expected in gate
        assert "step-1.fp32.onnx on onnxruntime, e2e" in gate


def test_nothing_measured_meets_no_gate():
    found = check(result(skipped("r", "torch")), ["e2e"], min_fps=1.0, max_p99=None)
    assert "nothing was measured" in found.gates[0]


# ---------------------------------------------------------------------------------- tables


def test_csv_has_every_figure_under_the_name_it_has_in_json():
    rows = [row(watts=7.5, joules=0.15, miou=61.25), skipped("r", "tensorrt")]
    read = list(csv.DictReader(csv_text(result(*rows)).splitlines()))
    assert [r["runtime"] for r in read] == ["onnxruntime", "tensorrt"]
    assert float(read[0]["p50_ms"]) == 20.0
    assert (read[0]["watts"], read[0]["miou"], read[0]["size"]) == ("7.5", "61.25", "64x96")
    assert (read[1]["fps"], read[1]["status"]) == ("", "skipped: it is gone")


def test_markdown_leaves_out_what_nobody_measured_and_states_the_conditions():
    document = replace(
        result(row(watts=7.25, joules=0.145, throttled=False), row(scope="io", note="x")),
        board=Board("Orin Nano", "36.4.3", "15W", False, {"gpu": 611.0}),
        meters=(PowerMeter("INA3221 (VDD_IN)", "board", 4.5),),
        data=DataRef("camvid", "/data"),
        images=101,
    )
    head, rule, first, second, *rest = markdown(document).splitlines()
    columns = [c.strip() for c in head.strip("|").split("|")]
    cells = dict(zip(columns, (c.strip() for c in first.strip("|").split("|")), strict=True))
    assert set(re.sub(r"[|: ]", "", rule)) == {"-"}
    assert (cells["W"], cells["J/frame"], cells["throttled"]) == ("7.25", "0.145", "no")
    assert (cells["p50 ms"], cells["FPS"]) == ("20.00", "50.0")
    assert "mIoU" not in columns
    assert second.count("|") == first.count("|")
    text = "\n".join(rest)
    for words in ("15W", "36.4.3", "clocks not locked", "611 MHz", "4.50 W", "101 images", "Orin"):
        assert words in text


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["r/step-1", "r/export/step-1.fp32.onnx"], ["step-1", "step-1.fp32"]),
        (["r/export/a.onnx", "r/export/a.engine"], ["a.onnx", "a.engine"]),
        (["x/export/a.onnx", "y/export/a.onnx"], ["x/a", "y/a"]),
        (["runs/v0.5", "runs/v0.7"], ["v0.5", "v0.7"]),
    ],
)
def test_an_artifact_goes_by_the_shortest_name_that_is_its_own(files, names):
    assert short_names([row(f) for f in files]) == dict(zip(files, names, strict=True))


# ---------------------------------------------------------------------------------- the picture


def drawn(path):
    tree = ElementTree.parse(path)
    space = "{http://www.w3.org/2000/svg}"
    texts = [e.text for e in tree.iter(f"{space}text")]
    dots = [(float(e.get("cx")), float(e.get("cy"))) for e in tree.iter(f"{space}circle")]
    lines = [e.get("points").split() for e in tree.iter(f"{space}polyline")]
    return texts, dots, lines


def test_the_picture_has_a_named_point_for_every_variant(tmp_path):
    document = result(
        row(runtime="torch", p50=50.0, miou=60.0),
        row(runtime="onnxruntime", p50=20.0, miou=59.0),
        row(runtime="openvino", p50=25.0, miou=58.0),
        row(runtime="openvino", p50=1.0, miou=58.0, scope="io"),
        skipped("r", "tensorrt"),
    )
    file = tmp_path / "new" / "matrix.svg"
    assert draw(document, "e2e", file)
    texts, dots, (front,) = drawn(file)
    assert {"torch", "onnxruntime", "openvino"} <= set(texts)
    assert {"mIoU, %", "frames per second"} <= set(texts)
    assert len(dots) == 3
    by_fps = sorted(dots)  # 20, 40 and 50 FPS
    near, far = (x - by_fps[0][0] for x, _ in by_fps[1:])
    assert near / far == pytest.approx(20 / 30, abs=1e-4)
    heights = [y for _, y in by_fps]
    assert heights[0] < heights[2] < heights[1]  # upwards is better: 60, 58, 59
    # openvino is slower and worse than onnxruntime: not on the dotted line
    assert len(front) == 2


def test_speeds_far_apart_share_a_logarithmic_axis(tmp_path):
    document = result(
        *(row(runtime=n, p50=p, miou=60.0) for n, p in (("a", 1000), ("b", 100), ("c", 10)))
    )
    assert draw(document, "e2e", tmp_path / "m.svg")
    texts, dots, _ = drawn(tmp_path / "m.svg")
    assert "frames per second (logarithmic)" in texts
    a, b, c = sorted(x for x, _ in dots)
    assert b - a == pytest.approx(c - b, abs=0.1)


def test_nothing_scored_is_no_picture(tmp_path):
    assert not draw(result(row()), "e2e", tmp_path / "m.svg")
    assert not (tmp_path / "m.svg").exists()


def test_points_are_named_by_what_differs():
    one = [row(runtime="torch"), row(runtime="openvino")]
    assert labels(one) == ["torch", "openvino"]
    two = [row(), row(precision="int8"), row(size=(32, 48))]
    assert labels(two) == [
        "onnxruntime fp32 64x96",
        "onnxruntime int8 64x96",
        "onnxruntime fp32 32x48",
    ]
    steps = [row("r/export/step-0.fp32.onnx"), row("r/export/step-1.fp32.onnx")]
    assert len(set(labels(steps))) == 2


# ---------------------------------------------------------------------------------- the command


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run `edgeinc ...` in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgeinc.host.cores", lambda: 1)

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        found = capsys.readouterr()
        return ended.value.code, found.out, found.err

    return run


@pytest.fixture(scope="module")
def run(_base_run, tmp_path_factory):
    """A trained run with an exported file, which the tests only read."""
    pytest.importorskip("onnxruntime")
    from edgeinc.deploy.export import export

    copy = tmp_path_factory.mktemp("bench") / "run"
    shutil.copytree(_base_run, copy)
    export(copy)
    return copy


@pytest.fixture(scope="module")
def file(run):
    return str(run / "export" / "step-0.fp32.onnx")


FAST = ("--duration", "0.1", "--threads", "1")


def test_gates_end_with_three_after_the_table_was_printed(command, file, tmp_path):
    code, out, err = command("bench", file, *FAST, "--min-fps", "1e9", "-o", "b.csv")
    assert code == 3
    assert "below 1e+09" in err
    assert "infer=io" in out
    assert "saved b.csv" in out
    document = from_json(BenchResult, (tmp_path / "b.json").read_bytes(), source="b.json")
    assert (len(document.gates), document.finished, document.table) == (1, True, "b.csv")
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 1 + len(document.rows)
    assert command("bench", file, *FAST, "--max-p99", "1e9")[0] == 0


def test_a_regression_against_a_file_ends_with_three(command, file, tmp_path):
    assert command("bench", file, *FAST, "--scope", "e2e", "-o", "base.json")[0] == 0
    base = from_json(BenchResult, (tmp_path / "base.json").read_bytes(), source="base")
    (measured,) = base.rows
    for factor, expected in ((1e-6, 3), (1e6, 0)):
        changed = replace(base, rows=(replace(measured, p50_ms=measured.p50_ms * factor),))
        (tmp_path / "old.json").write_text(to_json(changed))
        words = ("bench", file, *FAST, "--scope", "e2e", "--compare", "old.json")
        code, out, err = command(*words)
        assert code == expected
        assert "against old.json" in out
        assert ("slower" in err) == (expected == 3)


def test_a_matrix_is_measured_scored_and_drawn(command, run, tmp_path):
    words = ("bench", run, "--matrix", *FAST, "--precision", "fp32,fp16", "-o", "m.md")
    code, out, _ = command(*words)
    assert code == 0
    document = from_json(BenchResult, (tmp_path / "m.json").read_bytes(), source="m.json")
    measured = [r for r in document.rows if r.scope == "e2e" and r.fps]
    assert {r.runtime for r in measured} >= {"torch", "onnxruntime"}
    assert all(r.miou is not None for r in measured)
    lacking = {r.status for r in document.rows if r.precision == "fp16"}
    assert lacking == {"skipped: not exported in fp16 at 64x96"}
    _, dots, _ = drawn(tmp_path / "m.svg")
    assert len(dots) == len(measured)
    assert (document.chart, document.table) == ("m.svg", "m.md")
    assert "saved m.svg" in out


def test_a_matrix_needs_labels(command, file, tmp_path):
    away = tmp_path / "away.onnx"
    shutil.copyfile(file, away)
    code, _, err = command("bench", away, "--matrix", *FAST)
    assert code == 2
    assert "--data" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", "64"), "'64' is not a size"),
        (("--scope", "infer,e3e"), "unknown scope 'e3e'"),
        (("--compare", "gone.json"), "no benchmark to compare with: gone.json"),
        (("-o", "b.xlsx"), "b.xlsx"),
        (("--precision", "fp32,"), "an empty name"),
    ],
)
def test_a_wrong_word_is_named_with_the_way_out(command, file, words, message):
    code, _, err = command("bench", file, *FAST, *words)
    assert code == 2
    assert message in err
    assert "hint:" in err


def test_a_size_is_measured_alone(file, tmp_path):
    out = tmp_path / "b.json"
    found = bench(file, duration=0.1, threads=1, sizes=[(64, 96)], scopes=["e2e"], out=out)
    assert [r.size for r in found.rows if r.fps] == [(64, 96)]
    other = bench(file, duration=0.1, threads=1, sizes=[(8, 8)], scopes=["e2e"], out=out)
    assert [r.status for r in other.rows] == ["skipped: not exported in fp32 at 8x8"]
