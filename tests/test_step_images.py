"""What a trained step records of its plan: images, labels, background, images kept out."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest

from edgeinc.data import open_dataset
from edgeinc.data._scenario import load_scenario
from edgeinc.errors import DataError, UsageError
from edgeinc.evaluation import evaluate
from edgeinc.runs import open_run
from edgeinc.runtimes import open_artifact
from edgeinc.schema import Scenario, ScenarioStep, to_json
from edgeinc.training import extend, train

QUICK = {"epochs": 1, "threads": 1, "workers": 0, "batch_size": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEINC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shown(street_data):
    """Class name -> ids of the training images that show it."""
    data = open_dataset(street_data)
    masks = {i: set(np.unique(data.mask(i)).tolist()) for i in data.ids("train")}
    return {label.name: {i for i, ids in masks.items() if label.id in ids} for label in data.labels}


def dry(run, **changes):
    (step,) = extend(run, dry_run=True, **changes).steps
    return step


def test_the_selections_change_the_images_of_a_step(base_run, shown):
    cars = shown["car"]
    assert dry(base_run, new_classes=["car"]).images == len(cars)
    base = {"road", "sky", "building"}
    later = set().union(*(ids for name, ids in shown.items() if name not in {*base, "car"}))
    if cars - later:
        found = dry(base_run, new_classes=["car"], selection="disjoint").images
        assert found == len(cars - later)
    else:
        with pytest.raises(DataError, match="under selection disjoint"):
            dry(base_run, new_classes=["car"], selection="disjoint")
    part = dry(base_run, new_classes=["car", "bus"], selection="partitioned").images
    assert 0 < part < len(cars | shown["bus"])


def test_a_limit_leaves_joint_training_images_of_every_step(base_run, shown, street_data):
    ids = open_dataset(street_data).ids("train")
    old = shown["road"] | shown["sky"] | shown["building"]
    new = {name: next(i for i in ids if i in shown[name]) for name in ("tree", "car", "bus")}
    name, late = max(new.items(), key=lambda item: ids.index(item[1]))
    first = next(i for i in ids if i in old)
    assert late != first, "the scenes no longer show what this is about"
    step = dry(base_run, new_classes=[name], method="joint", limit=1)
    assert step.images_sha256 == hashlib.sha256(f"{first}\n{late}".encode()).hexdigest()


def test_an_index_file_is_of_its_step_only(base_run, shown, tmp_path):
    listed = sorted(shown["car"])[:3]
    (tmp_path / "i.txt").write_text("\n".join(listed))
    result = extend(
        base_run, new_classes=["car"], index=str(tmp_path / "i.txt"), method="finetune", **QUICK
    )
    assert result.steps[0].images == 3
    assert dry(base_run, new_classes=["bus"]).images == len(shown["bus"])


def test_images_kept_out_are_recorded_and_can_be_scored(base_run, street_data, shown):
    result = extend(base_run, new_classes=["car"], hold_out=0.4, method="finetune", **QUICK)
    run = open_run(base_run)
    kept = run.held_out(1)
    assert kept
    assert set(kept) < shown["car"]
    assert result.steps[0].images == len(shown["car"]) - len(kept)
    score = evaluate(base_run, split="hold-out")
    assert score.images == len(kept)
    # A car where it is labelled; elsewhere the truth is what the network of step 0 says.
    data = open_dataset(street_data)
    car = data.label("car").id
    hit, union = np.zeros(4), np.zeros(4)
    with open_artifact(base_run, step=0) as before, open_artifact(base_run, step=1) as after:
        for image_id in kept:
            image, mask = data.image(image_id)[None], data.mask(image_id)
            truth = np.where(mask == car, 3, before.run(image)[0])
            truth, found = truth[mask != 255], after.run(image)[0][mask != 255]
            for k in range(4):
                hit[k] += ((truth == k) & (found == k)).sum()
                union[k] += ((truth == k) | (found == k)).sum()
    expected = [100 * h / u if u else None for h, u in zip(hit, union, strict=True)]
    assert [c.iou for c in score.classes] == pytest.approx(expected)
    assert "the step before is the truth" in score.grid
    assert run.held_out(0) == ()
    with pytest.raises(UsageError, match=r"step 0 of .* kept no image out"):
        evaluate(base_run, step=0, split="hold-out")


def test_a_hold_out_of_nearly_everything_is_refused(base_run, street_data, tmp_path):
    (tmp_path / "i.txt").write_text(open_dataset(street_data).ids("train")[0])
    with pytest.raises(DataError, match=r"hold-out 0.99 leaves none of 1 images"):
        extend(base_run, new_classes=["tree"], index=str(tmp_path / "i.txt"), hold_out=0.99)


def test_old_labels_are_kept_where_the_plan_says_so(base_run):
    """Fine-tuning forgets; with the old labels in the new images it goes on learning them."""

    def forgotten(labels):
        copy = base_run.with_name(labels)
        shutil.copytree(base_run, copy)
        settings = {**QUICK, "epochs": 15, "lr": 0.01, "precision": "fp32"}
        extend(copy, new_classes=["car"], labels=labels, method="finetune", **settings)
        scores = open_run(copy).score(1)
        return scores.miou.old

    assert forgotten("new-and-old") > forgotten("new-only") + 10


def test_a_virtual_background_is_a_class_that_no_truth_has(street_data, tmp_path):
    run = tmp_path / "virtual"
    sets = ("model.width=0.125",)
    result = train(
        street_data,
        classes=["road", "sky"],
        background="virtual",
        size=(64, 96),
        run=run,
        sets=sets,
        **QUICK,
    )
    step = result.steps[0]
    assert [c.name for c in step.classes] == ["other", "road", "sky"]
    assert step.background == "virtual"
    assert "--background virtual" in step.command
    score = result.score
    assert score.classes[0].iou is None
    known = [c.iou for c in score.classes[1:] if c.iou is not None]
    assert score.miou.all == pytest.approx(np.mean(known))
    with pytest.raises(UsageError, match="'cil' works with background none or real, not virtual"):
        extend(run, new_classes=["car"], method="cil")
    extended = extend(run, new_classes=["car"], method="finetune", **QUICK)
    assert extended.steps[0].classes[3].name == "car"


def test_a_scenario_carries_its_rules_into_the_run(street_data, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(
        'background = "virtual"\nlabels = "new-and-old"\n'
        '[[step]]\nclasses = ["road", "sky"]\n[[step]]\nclasses = ["car"]\n'
    )
    run = tmp_path / "run"
    train(
        street_data,
        scenario=str(plan),
        size=(64, 96),
        run=run,
        sets=("model.width=0.125",),
        **QUICK,
    )
    result = extend(run, all_steps=True, method="finetune", **QUICK)
    assert [c.name for c in result.steps[-1].classes] == ["other", "road", "sky", "car"]
    assert open_run(run).info.scenario.labels == "new-and-old"


def test_a_plan_without_new_classes_says_what_it_is(street_data, tmp_path):
    assert load_scenario("cityscapes:11-5").steps[1].classes == ()
    run = tmp_path / "run"
    train(
        street_data,
        classes=["road", "sky"],
        size=(64, 96),
        run=run,
        sets=("model.width=0.125",),
        **QUICK,
    )
    info = open_run(run).info
    steps = (ScenarioStep(("road", "sky")), ScenarioStep((), sequences=("x",)))
    changed = replace(info, scenario=Scenario("domains", steps))
    (run / "run.json").write_text(to_json(changed))
    with pytest.raises(UsageError, match="'domains' adds no class at step 1, only images"):
        extend(run, method="cil")


def test_the_convention_of_a_run_goes_on_into_training_and_scoring(street_data, tmp_path):
    run = tmp_path / "run"
    base = train(
        street_data,
        classes=["road", "sky"],
        size=(64, 96),
        run=run,
        sets=("model.width=0.125",),
        convention="plop",
        **QUICK,
    )
    assert base.score.convention == "plop"
    assert "512x512" in base.score.grid
    step = extend(run, new_classes=["car"], method="cil", **QUICK)
    assert step.score.convention == evaluate(run).convention == "plop"
    assert evaluate(run, convention="default").convention == "default"
    with pytest.raises(UsageError, match="unknown convention 'plopp'"):
        extend(run, new_classes=["bus"], convention="plopp")
