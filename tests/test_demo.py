"""The demo tells the whole story; here a short one, and behind `slow` the one that users see."""

import io
import json
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from edgeinc import demo as story
from edgeinc.cli import main
from edgeinc.errors import UsageError
from edgeinc.evaluation import evaluate
from edgeinc.schema import DemoResult, from_json


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The same story in seconds: too short to learn anything, long enough to run every part.

    Its folder, exit code, and what was printed.
    """
    folder = tmp_path_factory.mktemp("story") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "SCENES", 25)
        patch.setattr(story, "SIZE", (64, 96))
        patch.setattr(story, "EPOCHS", (1, 1))
        patch.setattr(story, "TIMED_S", (0.1, 0.1))
        patch.setattr(story, "NETWORK", ("model.width=0.125",))
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
            main(["demo", "--out", str(folder), "--json"])
        yield folder, stop.value.code, out.getvalue(), err.getvalue()


def test_short_story_is_told_and_judged(told):
    _, code, out, err = told
    result = from_json(DemoResult, out, source="stdout")
    assert code == 3, "what one epoch teaches cannot be good"
    assert any("new class car" in f for f in result.failures)
    assert json.loads(err)["error"]["exit_code"] == 3
    assert [(r.step, r.classes) for r in result.rows] == [(0, story.BASE), (1, story.NEW)]
    assert all(r.fps > 0 for r in result.rows)
    for path in (result.report, result.picture):
        assert Path(path).stat().st_size > 1000


def test_scores_of_the_table_are_those_of_the_exported_files(told):
    folder, _, out, _ = told
    result = from_json(DemoResult, out, source="stdout")
    for row in result.rows:
        file = folder / "run" / "export" / f"step-{row.step}.fp32.onnx"
        assert evaluate(file).miou.all == pytest.approx(row.miou_all)
    again = story.demo(folder)
    assert [r.miou_all for r in again.rows] == [r.miou_all for r in result.rows]


def test_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        story.demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_full_story_is_good_within_three_minutes(tmp_path):
    start = time.monotonic()
    result = story.demo(tmp_path / "demo")
    assert result.failures == ()
    assert time.monotonic() - start < 180
