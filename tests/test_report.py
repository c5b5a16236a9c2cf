"""The page of a run: it stands alone, says what the files say, and fits a phone."""

import json
import math
import random
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgeinc.errors import EdgeincError, RunError, UsageError
from edgeinc.report import report
from edgeinc.runs import create_run, open_run
from edgeinc.schema import (
    ArtifactCard,
    BenchChoice,
    BenchResult,
    BenchRow,
    ClassInfo,
    ClassScore,
    DataRef,
    EvalResult,
    Host,
    Miou,
    Parity,
    RunInfo,
    Setting,
    SourceRef,
    StepInfo,
    StepScore,
    TaskScore,
    to_json,
)

NAMES = [
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence"),
    *("car", "pedestrian", "bicyclist"),
]
COLORS = [
    *[(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)],
    *[(192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)],
]
BORN = [0] * 8 + [1] + [2] * 2
IOU = [  # after steps 0, 1 and 2
    [91.2, 79.6, 21.4, 92.9, 76.3, 73.8, 32.5, 28.1],
    [90.8, 78.9, 19.9, 92.1, 74.8, 73.0, 29.7, 26.3, 70.4],
    [90.6, 78.1, 18.7, 91.6, 73.9, 72.4, 27.2, 25.8, 68.9, 41.3, 47.6],
]
HOST = Host(
    "Linux x86_64",
    "3.12.4",
    "AMD Ryzen 7 5800X 8-Core Processor",
    8,
    31.3,
    {"edgeinc": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.24.1"},
)
RUN = "runs/camvid-erfnet"
DATA = DataRef("camvid", "/data/camvid")


def mean(values):
    return math.fsum(values) / len(values)


def table(step, names=NAMES):
    return tuple(ClassInfo(i, names[i], COLORS[i], BORN[i]) for i in range(11) if BORN[i] <= step)


def score(step, names=NAMES):
    """A score as evaluation writes it, history included."""

    def groups(s):
        values = IOU[s]
        old = [v for v, b in zip(values, BORN, strict=False) if b < s]
        new = [v for v, b in zip(values, BORN, strict=False) if b == s]
        return Miou(mean(values), mean(old) if old else None, mean(new), mean(values))

    def hiou(s):
        m = groups(s)
        return 2 * m.old * m.new / (m.old + m.new) if m.old else None

    return EvalResult(
        source="runs/a",
        step=step,
        runtime="torch",
        artifact_sha256="ab" * 32,
        data=DATA,
        split="val",
        images=101,
        grid="every mask's own size",
        miou=groups(step),
        hiou=hiou(step),
        classes=tuple(
            ClassScore(i, names[i], iou, BORN[i], IOU[BORN[i]][i] - iou)
            for i, iou in enumerate(IOU[step])
        ),
        tasks=(TaskScore(0, tuple(names[:8]), mean(IOU[step][:8])),),
        history=tuple(
            StepScore(s, groups(s), hiou(s), dict(zip(names, IOU[s], strict=False)))
            for s in range(step + 1)
        ),
    )


def step_info(index, names=NAMES, data=DATA, weights_sha256="cd" * 32):
    return StepInfo(
        index=index,
        status="done",
        method="joint" if index == 0 else "cil",
        method_options={} if index == 0 else {"temperature": 1.0, "lambda_kd": 10.0},
        new_classes=tuple(c.name for c in table(index, names) if c.step == index),
        classes=table(index, names),
        background="none",
        data=data,
        images=[122, 123, 122][index],
        images_sha256="12" * 32,
        settings={
            "epochs": Setting(40, "default"),
            "lr": Setting(5e-4, "--set"),
            "limit": Setting(None, "default"),
        },
        host=HOST,
        command=[
            "edgeinc train --data camvid --scenario camvid-8-1-2 --run runs/a",
            "edgeinc extend runs/a --new-classes car --method cil",
            "edgeinc extend runs/a --new-classes pedestrian,bicyclist --method cil",
        ][index],
        started="2026-05-04T09:12:33Z",
        iterations=820,
        seconds=[3310.0, 2870.0, 95.4][index],
        parent_sha256="" if index == 0 else "cd" * 32,
        weights_sha256=weights_sha256,
    )


def card(step, precision="fp32", parity=None):
    return ArtifactCard(
        file=f"step-{step}.{precision}.onnx",
        sha256="ef" * 32,
        bytes=8_312_044 if precision == "fp32" else 4_187_310,
        model="erfnet",
        method="cil",
        step=step,
        classes=table(step),
        background="none",
        size=(360, 480),
        precision=precision,
        head="static",
        decision="argmax",
        input="images",
        output="ids",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        opset=20,
        topology_sha256="01" * 32,
        weights_sha256="cd" * 32,
        parent_sha256="cd" * 32,
        versions={"torch": "2.13.0"},
        created="2026-05-04T12:00:00Z",
        parity=parity,
    )


def bench_rows():
    def row(artifact, runtime, provider, precision, scope, p50, miou, size=8_312_044):
        start = (artifact, runtime, provider, precision, scope, (360, 480), 8)
        speed = {
            "p50_ms": p50,
            "p90_ms": p50 * 1.08,
            "p99_ms": p50 * 1.3,
            "fps": 1000 / p50,
            "cov_percent": 2.1,
            "frames": 300,
            "miou": miou,
            "file_bytes": size,
            "peak_mb": 412.0,
        }
        return BenchRow(*start, "ok", **speed)

    exported, half = f"{RUN}/export/step-2.fp32.onnx", f"{RUN}/export/step-2.fp16.onnx"
    rows = []
    for scope, extra in (("infer", 0.0), ("e2e", 3.1)):
        rows += [
            row(f"{RUN}/step-2", "torch", "cpu", "fp32", scope, 61.3 + extra, 57.81),
            row(exported, "onnxruntime", "cpu", "fp32", scope, 40.0 + extra, 57.83),
            row(half, "onnxruntime", "cpu", "fp16", scope, 52.4 + extra, 57.72, size=4_187_310),
            row(exported, "openvino", "cpu", "fp32", scope, 37.2 + extra, 57.84),
        ]
    skipped = "skipped: no CUDA GPU"
    return (*rows, BenchRow(exported, "tensorrt", "", "fp16", "e2e", (360, 480), 8, skipped))


def bench():
    return BenchResult(
        rows=bench_rows(),
        host=HOST,
        scopes={"infer": "network only", "e2e": "image in memory to ids at its own size"},
        created="2026-05-04T12:30:00Z",
        data=DATA,
        images=101,
    )


def losses(seed):
    source = random.Random(seed)
    for i in range(820):
        ce = 2.2 * math.exp(-i / 150) + 0.18 + source.random() * 0.15
        terms = {"ce": ce} if seed == 0 else {"ce": ce, "distill": 3 * math.exp(-i / 90) + 0.01}
        yield {"iteration": i, "lr": 5e-4, "wait_s": 0.01, **terms, "loss": sum(terms.values())}


def make_run(path, *, names=NAMES, data=DATA, steps=3):
    """A finished run of three steps, with scores but without weights."""
    run = create_run(path, RunInfo("erfnet", {}, (360, 480), "2026-05-04T09:12:00Z"))
    for index in range(steps):
        run.write_step(step_info(index, names, data))
        folder = run.folder(index)
        (folder / "eval.json").write_text(to_json(score(index, names)))
        lines = (json.dumps(row) + "\n" for row in losses(index))
        (folder / "metrics.jsonl").write_text("".join(lines))
    return run


def add_deployment(run):
    for name in ("export", "bench"):
        (run.path / name).mkdir()
    cards = [
        card(2, "fp32", Parity(64, 99.9987, "sign", 99.91, 99.9, True)),
        card(2, "fp16", Parity(64, 99.4321, "bicyclist", 93.17, 99.5, False)),
        card(1),
    ]
    for one in cards:
        (run.path / "export" / one.file).with_suffix(".json").write_text(to_json(one))
    (run.path / "bench" / "2026-05-04.json").write_text(to_json(bench()))


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "camvid-erfnet")
    add_deployment(run)
    return run


class Page(HTMLParser):
    """A page as its tags say: refuses what is not balanced, collects texts and attributes."""

    EMPTY = frozenset({"meta", "img", "line", "circle", "polyline"})

    def __init__(self, text):
        super().__init__()
        self.open, self.attributes, self.texts, self.tables = [], [], [], []
        self.sections, self.tags = {}, []
        self.feed(text)
        self.close()
        assert self.open == [], "tags that nothing closes"

    def handle_starttag(self, tag, attributes):
        assert tag not in self.EMPTY, f"<{tag}> must be written as empty"
        self.open.append(tag)
        self.note(tag, attributes)
        if tag == "section":
            self.section = dict(attributes)["id"]
            self.sections[self.section] = []
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.note(tag, attributes)

    def note(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, text):
        if "style" in self.open:
            return
        self.texts.append(text)
        if "section" in self.open:
            self.sections[self.section].append(text)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += text

    def rows(self, first):
        """The table whose head begins with these cells, as dictionaries."""
        for rows in self.tables:
            if rows[0][: len(first)] == first:
                return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        raise AssertionError(f"no table {first}")

    def text(self, section):
        return " ".join(self.sections[section])


def page_of(run, **options):
    result = report(run.path, **options)
    content = Path(result.path).read_bytes()
    assert result.bytes == len(content)
    return Page(content.decode())


def test_the_page_is_written_into_the_run_and_says_what_it_did(run):
    result = report(run.path)
    assert result.path == str(run.path / "report.html")
    assert (result.run, result.steps) == (str(run.path), 3)
    other = run.path.parent / "deep" / "a.html"
    assert report(run.path, out=other).path == str(other)
    assert other.read_bytes() == (run.path / "report.html").read_bytes()


def test_classes_that_the_data_does_not_label_are_named_and_not_counted(run):
    whole = score(2)
    page = page_of(run)
    assert "Not labelled" not in page.text("classes")
    assert "all 11 classes" in page.text("headline")
    gone = replace(
        whole,
        classes=tuple(replace(c, iou=None if c.step < 2 else c.iou) for c in whole.classes),
        miou=Miou(44.45, None, 44.45, 44.45),
        unlabelled=tuple(NAMES[:9]),
    )
    (run.folder(2) / "eval.json").write_text(to_json(gone))
    page = page_of(run)
    assert f"so in no score: {', '.join(NAMES[:9])}" in page.text("classes")
    assert "2 of 11 classes: the others are not labelled" in page.text("headline")


def on(step, *roots):
    """The score of a step on folder data, without the steps before."""
    first, *more = (DataRef("folder", root) for root in roots)
    data = replace(first, more=tuple(SourceRef(d.name, d.root) for d in more))
    alone = tuple(row for row in score(step).history if row.step == step)
    return replace(score(step), data=data, history=alone)


def test_scores_of_other_data_are_told_apart_and_are_no_forgetting(tmp_path):
    """Two folders of as many images are two sets of images, though both are called `folder`."""
    run = make_run(tmp_path / "run", data=DataRef("folder", "/data/a"))
    for step, roots in enumerate([("/data/a",), ("/data/b",), ("/data/b", "/data/c")]):
        (run.folder(step) / "eval.json").write_text(to_json(on(step, *roots)))
    page = page_of(run)
    for said in (
        *("Step 0: folder /data/a val, 101 images", "Step 1: folder /data/b val, 101 images"),
        "Step 2: folder /data/b and folder /data/c val, 101 images",
    ):
        assert said in page.text("steps")
    assert "says nothing of forgetting" in page.text("forgetting")
    assert f"edgeinc eval {run.path} --step all" in page.text("forgetting")

    both = replace(on(2, "/data/b"), history=score(2).history[1:])
    (run.folder(2) / "eval.json").write_text(to_json(both))
    page = page_of(run)
    assert "not compared here: step 0 (folder /data/a val)" in page.text("forgetting")
    rows = page.rows(["Class", "Step 0"])
    assert [row["Step 0"] for row in rows] == ["–"] * 8 + [""] * 3
    assert rows[0]["Step 1"] == "90.8"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataRef("camvid", "/data/camvid"), "--data camvid --data-root /data"),
        (DataRef("camvid", "/data/CamVid"), "--data camvid --data-root /data/CamVid"),
        (DataRef("folder", "/data/my scenes"), "--data '/data/my scenes'"),
        (
            DataRef("folder", "/data/a", (SourceRef("coco", "/data/b.json"),)),
            "--data /data/a --data /data/b.json",
        ),
        (DataRef("", ""), "--data NAME"),
    ],
)
def test_a_command_on_the_page_names_the_data_where_it_lies(tmp_path, data, words):
    run = make_run(tmp_path / "a run", data=data)
    (run.path / "bench").mkdir()
    unscored = tuple(replace(row, miou=None) for row in bench_rows())
    document = to_json(replace(bench(), rows=unscored))
    (run.path / "bench" / "2026-05-04.json").write_text(document)
    assert f"edgeinc bench '{run.path}' {words}" in page_of(run).text("speed")


def test_the_page_needs_no_network_and_no_script(run):
    page = page_of(run)
    assert "script" not in page.tags
    assert "link" not in page.tags
    sources = [v for _, name, v in page.attributes if name in ("src", "href", "xlink:href", "data")]
    assert all(v.startswith("data:image/") for v in sources)
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://|//[a-z]+\.", text)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in (
        page.attributes
    )


def test_the_steps_show_the_scores_of_the_files(run):
    rows = page_of(run).rows(["Step", "Method"])
    last = IOU[2]
    old, new = mean(last[:9]), mean(last[9:])
    assert [r["Step"] for r in rows] == ["0", "1", "2"]
    assert [r["Images"] for r in rows] == ["122", "123", "122"]
    assert [r["mIoU all"] for r in rows] == [f"{mean(v):.1f}" for v in IOU]
    assert rows[0]["mIoU old"] == "\u2013"
    assert rows[2]["mIoU old"] == f"{old:.1f}"
    assert rows[2]["mIoU new"] == f"{new:.1f}"
    assert rows[2]["hIoU"] == f"{2 * old * new / (old + new):.1f}"
    assert rows[2]["New classes"] == "pedestrian, bicyclist"
    assert [r["Time"] for r in rows] == ["55 min", "48 min", "95.4 s"]


def test_the_headline_is_the_newest_step_and_its_exported_file(run):
    text = page_of(run).text("headline")
    assert f"{mean(IOU[2]):.1f}" in text
    assert f"{mean(IOU[2][:9]):.1f}" in text
    assert f"{mean(IOU[2][9:]):.1f}" in text
    # the fastest exported file end to end is OpenVINO's: 37.2 ms and 3.1 ms around it
    assert f"{1000 / (37.2 + 3.1):.1f}" in text
    assert "openvino, fp32, e2e, 8 threads, mIoU 57.8 %" in text
    assert "8.3 MB" in text
    assert "val, 101 images; torch" in text


def test_the_speed_of_another_run_is_not_the_headline(run):
    document = bench()
    rows = tuple(r for r in document.rows if r.runtime == "onnxruntime")
    other = BenchRow(
        **{**vars(rows[0]), "artifact": "runs/b/export/step-2.fp32.onnx", "fps": 999.0}
    )
    (run.path / "bench" / "2026-05-04.json").write_text(
        to_json(BenchResult(**{**vars(document), "rows": (*rows, other)}))
    )
    page = page_of(run)
    assert "999.0" in page.text("speed")
    assert "999.0" not in page.text("headline")
    assert f"{1000 / 43.1:.1f}" in page.text("headline")


def test_a_variant_out_of_its_gate_is_not_the_headline_and_the_best_is_named(run):
    document = bench()
    wrong = {"fps": 999.0, "runtime": "openvino_bf16", "gate": "missed: 90.00 % of pixels"}
    rows = (*document.rows, BenchRow(**{**vars(document.rows[1]), **wrong}))
    best = BenchChoice("a", "openvino", "fp32", "e2e", (360, 480), 24.8, "openvino: 24.8 FPS e2e")
    (run.path / "bench" / "2026-05-04.json").write_text(
        to_json(BenchResult(**{**vars(document), "rows": rows, "best": (best,)}))
    )
    page = page_of(run)
    assert "999.0" in page.text("speed")
    assert "999.0" not in page.text("headline")
    assert "Best at 360×480: openvino: 24.8 FPS e2e." in page.text("speed")


def test_each_class_has_a_bar_of_its_iou_and_its_colour(run):
    page = page_of(run)
    rows = page.rows(["Class", ""])
    assert [r["Class"].removesuffix("new") for r in rows] == NAMES
    assert [r["IoU, %"] for r in rows] == [f"{v:.1f}" for v in IOU[2]]
    assert [r["Class"].endswith("new") for r in rows] == [b == 2 for b in BORN]
    change = IOU[2][6] - IOU[1][6]
    assert rows[6]["Change"] == f"\u2212{-change:.1f}"
    styles = [v for tag, name, v in page.attributes if (tag, name) == ("span", "style")]
    for iou, color in zip(IOU[2], COLORS, strict=True):
        assert f"width:{iou:.2f}%;background:rgb{color}" in styles


def test_the_forgetting_matrix_holds_every_class_after_every_step(run):
    rows = page_of(run).rows(["Class", "Step 0", "Step 1", "Step 2"])
    for i, row in enumerate(rows):
        for step in range(3):
            expected = f"{IOU[step][i]:.1f}" if step >= BORN[i] else ""
            assert row[f"Step {step}"] == expected
        lost = IOU[BORN[i]][i] - IOU[2][i]
        assert row["Change"] == ("new" if BORN[i] == 2 else f"\u2212{lost:.1f}")


def test_the_scatter_names_every_variant_that_has_speed_and_quality(run):
    page = page_of(run)
    text = page.text("speed")
    for label in ("torch·fp32", "onnxruntime·fp32", "onnxruntime·fp16", "openvino·fp32"):
        assert page.texts.count(label) == 1, label
    assert "frames per second" in page.texts
    assert "mIoU, %" in page.texts
    assert f"onnxruntime·fp32: {1000 / 43.1:.1f} frames per second at 57.8 % mIoU" in text
    assert "skipped: no CUDA GPU" in text
    assert "AMD Ryzen 7 5800X" in text
    assert page.tags.count("circle") == 4


def test_variants_of_one_name_are_told_apart(run):
    twice = bench()
    rows = tuple(r for r in twice.rows if r.runtime == "torch" and r.scope == "e2e") * 1
    other = BenchRow(**{**vars(rows[0]), "artifact": "runs/b/step-1"})
    document = BenchResult(**{**vars(twice), "rows": (*rows, other), "created": "2027"})
    (run.path / "bench" / "new.json").write_text(to_json(document))
    texts = page_of(run).texts
    assert "torch·fp32 step-2" in texts
    assert "torch·fp32 step-1" in texts


def test_each_export_shows_whether_it_agrees(run):
    rows = {r["File"]: r for r in page_of(run).rows(["File", "Step"])}
    assert rows["step-2.fp32.onnx"]["Agreement, %"] == "99.999"
    assert rows["step-2.fp32.onnx"]["Parity"] == "✓ passed"
    assert rows["step-2.fp16.onnx"]["Worst class"] == "bicyclist"
    assert rows["step-2.fp16.onnx"]["its IoU, %"] == "93.17"
    assert rows["step-2.fp16.onnx"]["Parity"] == "✗ failed"
    assert rows["step-1.fp32.onnx"]["Parity"] == "not checked"


def test_learning_curves_draw_the_terms_and_name_their_last_value(run):
    page = page_of(run)
    lines = [v for tag, name, v in page.attributes if (tag, name) == ("polyline", "points")]
    # step 0 has one term, which is its sum; the others a sum and two terms
    assert len(lines) == 1 + 3 + 3
    size = math.ceil(820 / 80)
    last = list(losses(1))[820 // size * size :]
    assert f"distill {mean([r['distill'] for r in last]):.3g}" in page.texts
    assert all(len(line.split()) == math.ceil(820 / size) for line in lines)
    heights = [float(p.split(",")[1]) for p in lines[0].split()]
    assert heights[-1] > heights[0] + 50  # the loss falls: further down means a larger y
    assert f"820 iterations, means of {size}" in page.text("curves")


def test_commands_settings_and_versions_are_there(run):
    page = page_of(run)
    text = page.text("repeat")
    assert "edgeinc extend runs/a --new-classes pedestrian,bicyclist --method cil" in text
    assert {"Setting": "lr", "Value": "0.0005", "From": "--set"} in page.rows(["Setting"])
    for value in ("AMD Ryzen 7 5800X 8-Core Processor, 8 cores, 31.3 GB", "2.13.0", "cd" * 6):
        assert value in text


def test_names_from_files_cannot_become_markup(tmp_path):
    names = [*NAMES[:9], "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>&amp;']
    run = make_run(tmp_path / "a<b>&c", names=names)
    page = page_of(run)
    assert "script" not in page.tags
    assert not [1 for _, name, _ in page.attributes if name.startswith("on")]
    rows = page.rows(["Class", ""])
    assert [r["Class"].removesuffix("new") for r in rows] == names
    assert "a<b>&c" in page.texts


def test_what_is_missing_is_said(tmp_path):
    run = make_run(tmp_path / "a", steps=1)
    (run.folder(0) / "eval.json").unlink()
    (run.folder(0) / "metrics.jsonl").unlink()
    page = page_of(run)
    assert "svg" not in page.tags
    for section, says in {
        "headline": "The newest step was not scored when it was trained.",
        "steps": "No step was scored when it was trained.",
        "pictures": "No pictures:",
        "classes": "The newest step was not scored when it was trained.",
        "forgetting": "There is one step",
        "speed": "Nothing was measured yet.",
        "parity": "Nothing was exported yet.",
        "curves": "No metrics were recorded.",
    }.items():
        assert says in page.text(section), section


def test_a_step_that_is_not_finished_is_mentioned(run):
    begun = StepInfo(**{**vars(step_info(2)), "index": 3, "status": "running"})
    run.write_step(begun)
    assert "Step 3 (cil) was begun and is not finished." in page_of(run).text("steps")


def test_pictures_that_cannot_be_drawn_say_why(run):
    assert "/data/camvid" in page_of(run).text("pictures")


def test_errors_name_the_file_and_the_way_out(run, tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        report(tmp_path / "nothing")
    with pytest.raises(UsageError, match="is a folder"):
        report(run.path, out=tmp_path)
    empty = create_run(tmp_path / "b", RunInfo("erfnet", {}, (8, 8), "2026"))
    with pytest.raises(RunError, match="no finished step"):
        report(empty.path)
    (run.path / "bench" / "broken.json").write_text("{")
    with pytest.raises(EdgeincError, match=r"broken\.json"):
        report(run.path)
    assert not (run.path / "report.html").exists()


# ------------------------------------------------------------------------------ pictures


@pytest.fixture
def drawable(tmp_path, camvid_root):
    """A run on real images with a small network of random weights."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    from edgeinc.models import create
    from edgeinc.runs import sha256

    info = RunInfo("erfnet", {"width": 0.25}, (96, 128), "2026-05-04T09:12:00Z")
    run = create_run(tmp_path / "drawable", info)
    torch.manual_seed(1)
    model = create("erfnet", [8], {"width": 0.25})
    for index, added in enumerate((8, 1, 2)):
        if index:
            model.grow(added)
        run.folder(index).mkdir()
        weights = run.folder(index) / "weights.safetensors"
        save_file(model.state_dict(), weights)
        data = DataRef("camvid", str(camvid_root / "camvid"))
        run.write_step(step_info(index, data=data, weights_sha256=sha256(weights)))
        (run.folder(index) / "eval.json").write_text(to_json(score(index)))
    return run


def test_pictures_show_the_images_with_the_most_new_pixels(drawable, camvid_root):
    import cv2
    import numpy as np

    page = page_of(drawable)
    lines = (camvid_root / "camvid" / "val.txt").read_text().split()
    counts = {}
    for image, mask in zip(lines[::2], lines[1::2], strict=True):
        ids = cv2.imread(str(camvid_root / "camvid" / mask), cv2.IMREAD_UNCHANGED)
        counts[Path(image).stem] = int(np.isin(ids, [9, 10]).sum())  # pedestrian, bicyclist
    expected = [max(part, key=counts.get) for part in np.array_split(list(counts), 5)]
    alts = [v for tag, name, v in page.attributes if (tag, name) == ("img", "alt")]
    panels = ("input", "truth", "before", "after")
    assert alts == [f"{panel}, image {name}" for name in expected for panel in panels]
    uris = [v for tag, name, v in page.attributes if (tag, name) == ("img", "src")]
    assert len(set(uris)) == 20
    assert all(uri.startswith("data:image/jpeg;base64,/9j/") for uri in uris)
    assert "step 1: torch, fp32; step 2: torch, fp32" in page.text("pictures")


def test_a_page_is_the_same_every_time(drawable):
    first = Path(report(drawable.path).path).read_bytes()
    assert Path(report(drawable.path).path).read_bytes() == first


# ------------------------------------------------------------------------------ in a browser


@pytest.fixture
def browser(tmp_path):
    """Open a file in a real browser with a window of a given width; returns the page it ran."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")

    def dump(file):
        command = [
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=2000", "--dump-dom", file.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    return dump


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(run, browser, tmp_path, width):
    long = run.step(2)
    wide = StepInfo(**{**vars(long), "command": "edgeinc extend " + "--new-classes " + "x" * 400})
    run.write_step(wide)
    report(run.path)
    # A frame is as narrow as it is told to be, unlike a window; the page around it measures it.
    text = (run.path / "report.html").read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(_FRAME.replace("WIDTH", str(width)).replace("PAGE", escape(text)))
    found = re.search(r'id="found">([^<]*)<', browser(frame)).group(1).split()
    client, scroll, wide = map(int, found)
    assert width - 20 <= client <= width  # a scroll bar may take some of it
    assert scroll == client
    assert wide == 0


_FRAME = """<!doctype html><meta charset="utf-8"><p id="found"></p>
<iframe width="WIDTH" height="800" style="border:0" srcdoc="PAGE"></iframe>
<script>
onload = () => {
  const root = document.querySelector("iframe").contentDocument.documentElement;
  const wide = [...root.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll, pre, svg") && e.getBoundingClientRect().right > root.clientWidth + 0.5);
  document.getElementById("found").textContent =
    [root.clientWidth, root.scrollWidth, wide.length].join(" ");
};
</script>"""


def test_a_run_opened_again_gives_the_same_page(run):
    first = Path(report(run.path).path).read_bytes()
    assert Path(report(open_run(run.path).path).path).read_bytes() == first
