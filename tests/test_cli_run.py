"""The commands that need a trained run, through the command line, on one that took seconds."""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest

from edgeinc.cli import main
from edgeinc.schema import (
    ArtifactCard,
    BenchResult,
    EvalResult,
    ExportResult,
    LearnResult,
    PredictResult,
    ReportResult,
    RunSummary,
    from_json,
)

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


class Printed(NamedTuple):
    stdout: str
    stderr: str


TINY = ["--epochs", "1", "-b", "4", "--threads", "1", "--workers", "0", "--precision", "fp32"]


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """A folder in which train, extend and export were run; `story[WORDS]` is what they printed."""
    folder = tmp_path_factory.mktemp("story")
    done = {}
    for name, words in {
        "synth": ["data", "synth", "scenes", "--n", "10", "--size", "32x48"],
        "train": [
            *("train", "--data", "scenes", "--classes", "road,sky,building", *TINY),
            *("--run", "runs/a", "--set", "model.width=0.25", "--size", "32x48"),
        ],
        "plan": ["extend", "--new-classes", "car", "--dry-run"],
        "extend": ["extend", "--new-classes", "car", "--method", "cil"],
        "export": ["export"],
    }.items():
        words = [*words, *(["--json"] if name != "synth" else [])]
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(folder)
            with pytest.raises(SystemExit) as end:
                main(words)
        done[name] = Printed(out.getvalue(), err.getvalue())
        assert end.value.code == 0, done[name].stderr
    return folder, done


@pytest.fixture
def edgeinc(story, tmp_path, monkeypatch, capsys):
    """Run a command line in a copy of the story's folder."""
    shutil.copytree(story[0], tmp_path / "copy")
    (tmp_path / "copy" / ".edgeinc" / "last-run").write_text(str(tmp_path / "copy/runs/a"))
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        return (end.value.code, *capsys.readouterr())

    return run


@pytest.mark.parametrize(
    ("name", "kind"),
    [("train", LearnResult), ("plan", LearnResult), ("extend", LearnResult)],
)
def test_learning_prints_its_steps(story, name, kind):
    document = from_json(kind, story[1][name].stdout, source=name)
    assert story[1][name].stderr == ""
    expected = {
        "train": [("done", ("road", "sky", "building"))],
        "plan": [("planned", ("car",))],
        "extend": [("done", ("car",))],
    }
    assert [(s.status, s.new_classes) for s in document.steps] == expected[name]
    assert document.run == "runs/a"
    assert (document.score is None) == (name == "plan")


def test_flags_reach_the_settings(story):
    (step,) = from_json(LearnResult, story[1]["train"].stdout, source="train").steps
    given = {"epochs": 1, "batch_size": 4, "threads": 1, "workers": 0, "precision": "fp32"}
    assert {k: (s.value, s.source) for k, s in step.settings.items() if k in given} == {
        name: (value, "flag") for name, value in given.items()
    }
    assert step.settings["lr"].source == "default"


def test_export_prints_file_and_card(story):
    document = from_json(ExportResult, story[1]["export"].stdout, source="export")
    assert document.path == "runs/a/export/step-1.fp32.onnx"
    assert [c.name for c in document.card.classes] == ["road", "sky", "building", "car"]


def test_eval_shows_classes_groups_and_how_they_were_averaged(edgeinc):
    code, out, err = edgeinc("eval", "--step", "all")
    assert code == 0
    assert err.splitlines()[0] == "run: runs/a (the last one used in this folder)"
    assert err.splitlines()[-1] == "next: edgeinc export runs/a"
    for text in ("road", "car", "forgetting", "after step", "void skipped", "compared at", "mIoU"):
        assert text in out
    document = from_json(EvalResult, edgeinc("eval", "--json")[1], source="eval")
    assert f"mIoU {document.miou.all:.1f}  old {document.miou.old:.1f}" in out


def test_a_run_and_its_file_are_scored_alike(edgeinc):
    by_torch = from_json(EvalResult, edgeinc("eval", "runs/a", "--json")[1], source="run")
    file = "runs/a/export/step-1.fp32.onnx"
    by_file = from_json(EvalResult, edgeinc("eval", file, "--json")[1], source="file")
    assert by_file.miou.all == pytest.approx(by_torch.miou.all, abs=0.5)
    assert by_file.runtime != by_torch.runtime


def test_a_gate_that_is_not_met_ends_with_three_after_the_result(edgeinc):
    code, out, err = edgeinc("eval", "runs/a", "--min-miou", "99.5")
    assert (code, "mIoU" in out) == (3, True)
    assert "error: mIoU" in err
    assert "99.5" in err
    code, out, err = edgeinc("eval", "runs/a", "--min-miou", "99.5", "--json")
    assert code == 3
    assert len(from_json(EvalResult, out, source="eval").gates) == 1
    assert json.loads(err)["error"]["exit_code"] == 3
    code, out, err = edgeinc("eval", "runs/a", "--min-miou", "99.5", "-q")
    assert (code, out) == (3, "")
    assert err.startswith("error: ")


def test_bench_ends_each_line_with_its_status(edgeinc):
    words = ["bench", "runs/a", "--duration", "0.05", "--threads", "1", "--limit", "2"]
    code, out, _ = edgeinc(*words)
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split()[-1] == "status"
    assert any("onnxruntime/CPU" in row for row in rows)
    code, out, err = edgeinc(*words, "--json")
    assert (code, err) == (0, "")
    document = from_json(BenchResult, out, source="bench")
    assert {row.runtime for row in document.rows} >= {"onnxruntime", "torch"}


def test_predict_takes_one_word_as_the_source(edgeinc, tmp_path):
    image = next((tmp_path / "copy" / "scenes").rglob("images/**/*.*"))
    code, out, err = edgeinc("predict", image, "-o", "seen.png", "--json")
    assert (code, err) == (0, "")
    document = from_json(PredictResult, out, source="predict")
    assert (document.frames, document.source) == (1, str(image))
    code, out, _ = edgeinc("predict", "runs/a", image, "-o", "seen.png", "-q")
    assert (code, out) == (0, "seen.png\n")
    assert (tmp_path / "copy" / "seen.png").stat().st_size > 0


def test_report_says_where_the_page_is(edgeinc, tmp_path):
    code, out, _ = edgeinc("report", "-o", "page.html")
    assert code == 0
    assert out.startswith("wrote page.html: 2 steps")
    assert "<html" in (tmp_path / "copy" / "page.html").read_text(encoding="utf-8")
    document = from_json(ReportResult, edgeinc("report", "--json")[1], source="report")
    assert document.steps == 2


def test_show_knows_runs_and_files(edgeinc):
    document = from_json(RunSummary, edgeinc("show", "runs/a", "--json")[1], source="run")
    assert [step.method for step in document.steps] == ["ejt", "cil"]
    assert document.artifacts == ("runs/a/export/step-1.fp32.onnx",)
    card = from_json(ArtifactCard, edgeinc("show", document.artifacts[0], "--json")[1], source="x")
    assert (card.step, len(card.topology_sha256)) == (1, 64)
    assert card.parent_sha256 == document.steps[0].weights_sha256
    code, out, _ = edgeinc("show", document.artifacts[0])
    assert code == 0
    assert card.topology_sha256[:16] in out


def test_ls_runs_names_model_method_and_size(edgeinc):
    code, out, _ = edgeinc("ls", "runs")
    assert code == 0
    assert " ".join(out.split()) == "runs/a erfnet+cil, 2 steps, 4 classes"


def test_a_dry_run_lists_settings_with_their_sources(edgeinc, tmp_path):
    before = sorted((tmp_path / "copy" / "runs" / "a").iterdir())
    code, out, _ = edgeinc("extend", "--new-classes", "tree", "--lr", "0.001", "--dry-run")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["lr", "0.001", "flag"] in lines
    assert ["epochs", "1", "step", "1"] in lines
    assert "nothing was written" in out
    assert sorted((tmp_path / "copy" / "runs" / "a").iterdir()) == before


def test_a_run_that_exists_is_not_overwritten_unasked(edgeinc):
    code, out, err = edgeinc("train", "--data", "scenes", "--run", "runs/a", "--size", "32x48")
    assert (code, out) == (2, "")
    assert "--resume" in err
    assert "--overwrite" in err


def test_commands_in_messages_can_be_pasted_where_paths_have_spaces(edgeinc, tmp_path):
    folder = tmp_path / "copy"
    shutil.move(folder / "runs" / "a", folder / "runs" / "my run")
    shutil.rmtree(folder / "runs" / "my run" / "export")
    code, out, _ = edgeinc("bench", "runs/my run", "--duration", "0.01", "--runtime", "onnxruntime")
    assert "run `edgeinc export 'runs/my run'`" in out
    code, _, err = edgeinc("eval", "runs/my run", "--min-miou", "100")
    assert code == 3
    assert "edgeinc eval 'runs/my run' --json" in err
    (folder / "my pictures").mkdir()
    image = next((folder / "scenes" / "images").iterdir())
    code, _, err = edgeinc("predict", "runs/my run", image, "-o", "my pictures")
    assert code == 2
    assert f"--out 'my pictures/{image.stem}-overlay" in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_interrupted_training_ends_with_130_and_says_how_to_go_on(story, tmp_path):
    words = ["train", "--data", str(story[0] / "scenes"), "--run", "runs/b", *TINY[2:]]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeinc", *words, "--epochs", "5000", "--size", "32x48", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines, deadline = tmp_path / "runs" / "b" / "step-0" / "metrics.jsonl", time.time() + 60
    while time.time() < deadline and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "--resume" in json.loads(err)["error"]["hint"]
