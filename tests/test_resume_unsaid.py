"""What was interrupted goes on by the command that the hint names, wherever the run lies now."""

import re
import shlex
import shutil
import signal
from contextlib import contextmanager

import pytest

import edgeinc
from edgeinc.cli import main
from edgeinc.data._synth import synth
from edgeinc.errors import Interrupted, RunError, UsageError
from edgeinc.runs import open_run

SIZE = (32, 64)
QUICK = {"batch_size": 2, "precision": "fp32", "threads": 1, "workers": 0}
BASE = {"model": "bisenet", "size": SIZE, "sets": ["model.width=0.125"], "epochs": 2, **QUICK}
PLAN = """
name = "streets"
labels = "new-only"
background = "none"
[[step]]
classes = ["road", "sky", "building"]
[[step]]
classes = ["tree"]
[[step]]
classes = ["car"]
"""


class CtrlC:
    """Progress that presses Ctrl-C where a task of that name advances for the first time."""

    def __init__(self, name):
        self.name = name

    @contextmanager
    def task(self, name, total, unit="it", done=0):
        self.pressed = not name.startswith(self.name)
        yield self

    def advance(self, n=1, note=""):
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)

    def message(self, text):
        pass


@pytest.fixture(autouse=True)
def _ctrl_c():
    """Python's own handler: what runs in the background of a shell is born without one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "my scenes"
    synth(root, n=20, size=SIZE, seed=0)
    return root


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN, encoding="utf-8")
    return str(tmp_path / "plan.toml")


@pytest.fixture
def edge(monkeypatch, capsys):
    """Run a command line: exit code and what it said."""
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return run


def bytes_of(run, step):
    return open_run(run).weights(step).read_bytes()


def interrupted(learn, *arguments, at="step", **options):
    with pytest.raises(Interrupted) as caught:
        learn(*arguments, progress=CtrlC(at), **options)
    return caught.value


def typed(hint):
    """The words of the command in a hint, less `edgeinc`."""
    command = re.search(r"`(.*)`", hint)
    first, *words = shlex.split(command[1] if command else hint)
    assert first == "edgeinc"
    return words


# ------------------------------------------------------------------------------ step 0


@pytest.mark.parametrize("background", ["none", "virtual"])
def test_a_first_step_goes_on_with_what_it_was_begun_with(scenes, tmp_path, background):
    said = {"classes": ["sky", "road"], "background": background, "method": "dkd", "limit": 6}
    said |= {"lr": 0.002, **BASE} if background == "virtual" else {**BASE, "method": "finetune"}
    edgeinc.train(scenes, run=tmp_path / "whole", **said)
    interrupted(edgeinc.train, scenes, run=tmp_path / "broken", **said)
    again = edgeinc.train(run=tmp_path / "broken", resume=True)
    assert bytes_of(tmp_path / "broken", 0) == bytes_of(tmp_path / "whole", 0)
    whole, broken = (open_run(tmp_path / name).step(0) for name in ("whole", "broken"))
    assert (broken.settings, broken.classes) == (whole.settings, whole.classes)
    assert again.score.miou == open_run(tmp_path / "whole").score(0).miou


def test_a_first_step_of_a_plan_goes_on_without_it(scenes, plan, tmp_path):
    run = tmp_path / "run"
    interrupted(edgeinc.train, scenes, run=run, scenario=plan, **BASE)
    done = edgeinc.train(scenes, run=run, resume=True)
    assert done.steps[0].new_classes == ("road", "sky", "building")
    assert open_run(run).info.scenario.name == "streets"


def test_another_plan_is_named_and_not_printed_whole(scenes, plan, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other.toml"
    interrupted(edgeinc.train, scenes, run=run, scenario=plan, **BASE)
    for name, said in (("lanes", "not lanes"), ("streets", "not another of that name")):
        other.write_text(PLAN.replace("streets", name).replace('["car"]', '["bus"]'))
        with pytest.raises(UsageError, match=f"has scenario streets, {said}") as caught:
            edgeinc.train(scenes, run=run, scenario=str(other), resume=True, **BASE)
        assert "Scenario(" not in caught.value.message
        assert typed(caught.value.hint) == ["train", "--run", str(run), "--resume"]


def test_what_is_said_again_differently_is_refused(scenes, tmp_path):
    run = tmp_path / "run"
    interrupted(edgeinc.train, scenes, run=run, classes=["road"], **BASE)
    with pytest.raises(UsageError, match=r"epochs 2 -> 3"):
        edgeinc.train(run=run, resume=True, epochs=3)
    with pytest.raises(UsageError, match=r"new classes road -> sky"):
        edgeinc.train(run=run, resume=True, classes=["sky"])
    with pytest.raises(UsageError, match=r"has model bisenet, not erfnet"):
        edgeinc.train(run=run, resume=True, model="erfnet", sets=["model.width=0.125"])


def test_the_hint_of_a_run_that_was_moved_leads_to_its_end(scenes, tmp_path, edge, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stop = interrupted(edgeinc.train, scenes, run="first", classes=["road"], **BASE)
    assert typed(stop.hint)[-1] == "--resume"
    shutil.move("first", "a second place")
    with pytest.raises(RunError, match="a second place has no finished step") as caught:
        edgeinc.evaluate("a second place")
    words = typed(caught.value.hint)
    assert words == ["train", "--run", "a second place", "--resume"]
    code, out, _ = edge("show", "a second place", "--json")
    assert (code, '"pending": {' in out) == (0, True)
    assert (
        "next: edgeinc train --run 'a second place' --resume" in edge("show", "a second place")[2]
    )
    stop = interrupted(edgeinc.train, run="a second place", resume=True)
    assert "'a second place'" in stop.hint
    assert "first" not in stop.hint
    assert edge(*typed(stop.hint))[0] == 0
    assert len(open_run(tmp_path / "a second place").steps) == 1


def test_where_nothing_was_begun_data_is_asked_for(scenes, tmp_path, edge):
    with pytest.raises(UsageError, match="no data was named"):
        edgeinc.train()
    with pytest.raises(UsageError, match="no run at"):
        edgeinc.train(run=tmp_path / "none", resume=True)
    run = tmp_path / "run"
    interrupted(edgeinc.train, scenes, run=run, classes=["road"], **BASE)
    shutil.rmtree(run / "step-0")
    with pytest.raises(UsageError, match="no data was named"):
        edgeinc.train(run=run, resume=True)
    with pytest.raises(RunError) as caught:
        edgeinc.evaluate(run)
    assert "--data NAME" in caught.value.hint
    assert edge("train", "--resume")[0] == 2


# ------------------------------------------------------------------------------ later steps


@pytest.fixture(scope="module")
def _planned(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planned")
    (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
    scenario = str(folder / "plan.toml")
    edgeinc.train(scenes, run=folder / "run", scenario=scenario, **{**BASE, "epochs": 1})
    return folder / "run"


@pytest.fixture
def planned(_planned, tmp_path):
    """A run whose plan has two steps left."""
    shutil.copytree(_planned, tmp_path / "planned")
    return tmp_path / "planned"


def test_every_step_left_is_still_meant_after_an_interruption(planned, tmp_path, edge):
    whole = tmp_path / "whole"
    shutil.copytree(planned, whole)
    said = {"all_steps": True, "method": "finetune", "limit": 4, "epochs": 2}
    edgeinc.extend(whole, **said)
    stop = interrupted(edgeinc.extend, planned, **said)
    words = typed(stop.hint)
    assert words[-2:] == ["--all", "--resume"]
    assert "--new-classes" not in words
    assert edge(*words)[0] == 0
    for step in (1, 2):
        assert bytes_of(planned, step) == bytes_of(whole, step)


def test_a_step_beside_the_plan_goes_on_as_one(planned, labelled_alone, tmp_path):
    """Its images are those of its own data, in a run whose plan would choose others."""
    whole, cars = tmp_path / "whole", labelled_alone("car")
    shutil.copytree(planned, whole)
    said = {"new_classes": ["car"], "data": cars, "method": "finetune", "epochs": 2}
    edgeinc.extend(whole, **said)
    interrupted(edgeinc.extend, planned, **said)
    edgeinc.extend(planned, resume=True)
    assert bytes_of(planned, 1) == bytes_of(whole, 1)
    assert open_run(planned).step(1).data == open_run(whole).step(1).data


def test_a_planned_step_of_other_data_goes_on_as_one(planned, scenes, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(scenes, moved)
    stop = interrupted(edgeinc.extend, planned, data=moved, method="finetune", epochs=2)
    assert "--new-classes" not in stop.hint
    done = edgeinc.extend(planned, resume=True).steps[0]
    assert (done.new_classes, done.data.root) == (("tree",), str(moved))


# ------------------------------------------------------------------------------ scores


def test_a_step_that_was_not_scored_is_scored_by_resume(planned, edge):
    stop = interrupted(
        edgeinc.extend, planned, at="score", new_classes=["tree"], method="finetune", epochs=1
    )
    assert "the step is finished and saved" in stop.message
    weights = bytes_of(planned, 1)
    assert open_run(planned).score(1) is None
    assert edge(*typed(stop.hint))[0] == 0
    score = open_run(planned).score(1)
    assert score.miou == edgeinc.evaluate(planned).miou
    assert bytes_of(planned, 1) == weights
    again = edgeinc.extend(planned, new_classes=["tree"], resume=True)
    assert (again.score, [s.index for s in again.steps]) == (score, [1])
    (planned / "step-1" / "eval.json").unlink()
    assert edgeinc.extend(planned, resume=True).score == score
    assert len(open_run(planned).steps) == 2


def test_a_first_step_that_was_not_scored_is_scored_by_resume(scenes, tmp_path):
    run = tmp_path / "run"
    stop = interrupted(edgeinc.train, scenes, at="score", run=run, classes=["road"], **BASE)
    assert "step 0 was scored" in stop.message
    assert edgeinc.train(run=run, resume=True).score == open_run(run).score(0)


def test_an_interrupted_score_says_that_nothing_of_it_is_kept(planned):
    for step in (None, "all"):
        stop = interrupted(edgeinc.evaluate, planned, at="score", step=step)
        assert "interrupted while step 0" in stop.message
        assert "nothing of it is kept" in stop.message
        assert "--limit" in stop.hint
        assert stop.exit_code == 130
