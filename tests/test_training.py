"""Training and extending a run, from the outside: what is on disk, and what comes back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgeinc
from edgeinc import registry
from edgeinc.errors import DataError, MissingError, RunError, TrainingError, UsageError
from edgeinc.runs import open_run, sha256

QUICK = {"epochs": 2, "batch_size": 4, "precision": "fp32", "threads": 1, "workers": 0}


def weights(run, step):
    return open_run(run).weights(step).read_bytes()


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


# ------------------------------------------------------------------------------ what comes out


def test_train_writes_a_finished_step_with_its_evidence(base_run):
    run = open_run(base_run)
    step = run.step()
    assert step.status == "done"
    assert [c.name for c in step.classes] == ["road", "sky", "building"]
    assert [c.id for c in step.classes] == [0, 1, 2]
    assert sha256(run.weights(0)) == step.weights_sha256
    assert step.settings["epochs"].source == "flag"
    assert step.settings["lr"].source == "default"
    assert len(run.metrics(0)) == step.iterations == 2 * (16 // 4)
    assert not (run.folder(0) / "state.safetensors").exists()
    assert run.score(0).images == 4


def test_learning_rate_follows_the_poly_schedule(base_run):
    rows = open_run(base_run).metrics(0)
    expected = [5e-4 * (1 - i / len(rows)) ** 0.9 for i in range(len(rows))]
    assert [r["lr"] for r in rows] == pytest.approx(expected, rel=1e-5)


def test_extend_appends_classes_and_never_moves_old_ids(base_run):
    before = open_run(base_run).step().classes
    result = edgeinc.extend(base_run, new_classes=["car", "bus"], method="cil")
    step = result.steps[0]
    assert step.classes[:3] == before
    assert [(c.id, c.name, c.step) for c in step.classes[3:]] == [(3, "car", 1), (4, "bus", 1)]
    assert step.parent_sha256 == open_run(base_run).step(0).weights_sha256
    assert result.score.step == 1
    assert {t.step for t in result.score.tasks} == {0, 1}


def test_extend_takes_over_the_settings_of_the_step_before(base_run):
    step = edgeinc.extend(base_run, new_classes=["car"], method="finetune", lr=1e-4).steps[0]
    assert step.settings["epochs"].value == 2
    assert step.settings["epochs"].source == "step 0"
    assert step.settings["lr"].value == 1e-4
    assert step.settings["lr"].source == "flag"


@pytest.fixture(scope="module")
def virtual_run(street_data, tmp_path_factory):
    """As `base_run`, with a virtual background."""
    run = tmp_path_factory.mktemp("runs") / "virtual"
    known = ["road", "sky", "building"]
    options = {"size": (64, 96), "sets": ["model.width=0.125"], "background": "virtual"}
    edgeinc.train(street_data, classes=known, run=run, **options, **QUICK)
    return run


@pytest.mark.parametrize("method", registry.names("methods"))
def test_every_method_extends_a_run_and_loses_no_class(base_run, virtual_run, tmp_path, method):
    quick = {"hrhf": ["method.per_class=3", "method.batch=8", "method.iterations=1"]}
    plugin = registry.load("methods", method)
    run, first = base_run, []
    if "none" not in plugin.backgrounds:
        run, first = tmp_path / "virtual", ["other"]
        shutil.copytree(virtual_run, run)
    result = edgeinc.extend(
        run,
        new_classes=["tree"],
        method=method,
        epochs=1,
        sets=quick.get(method, ()),
        labels="new-and-old" if plugin.labels == "new-and-old" else None,
    )
    assert [c.name for c in result.steps[0].classes] == [*first, "road", "sky", "building", "tree"]
    assert {"road", "sky", "building", "tree"} <= {c.name for c in result.score.classes}
    state = load_file(open_run(run).weights(1))
    own = "branches.1.head.0.bias"
    assert state[own if own in state else "head.1.bias"].shape == (1,)


def test_joint_sees_every_image_and_the_others_only_those_of_the_new_class(base_run, street_data):
    from edgeinc.data import open_dataset

    data = open_dataset(street_data)
    bus = data.label("bus").id
    showing = sum(bool((data.mask(i) == bus).any()) for i in data.ids("train"))
    plan = edgeinc.extend(base_run, new_classes=["bus"], method="cil", dry_run=True)
    assert plan.steps[0].images == showing < 16
    assert (
        edgeinc.extend(base_run, new_classes=["bus"], method="joint", dry_run=True).steps[0].images
        == 16
    )


def test_dry_run_writes_nothing(base_run, street_data, tmp_path):
    before = contents(base_run)
    plan = edgeinc.extend(base_run, new_classes=["car"], method="cil", dry_run=True)
    assert plan.steps[0].status == "planned"
    assert contents(base_run) == before
    edgeinc.train(street_data, run=tmp_path / "none", size=(64, 96), dry_run=True)
    assert not (tmp_path / "none").exists()


def test_command_of_a_step_repeats_it(base_run, street_data):
    command = open_run(base_run).step().command
    for part in (
        "edgeinc train",
        str(street_data),
        "--classes road,sky,building",
        "--size 64x96",
        "--epochs 2",
        "--set model.width=0.125",
    ):
        assert part in command


# ------------------------------------------------------------------------------ old data


def test_extend_without_any_old_image_gives_the_same_bytes(street_data, base_run, tmp_path):
    """Base images and masks are deleted before `extend`: not one byte of the result changes."""
    from edgeinc.data._synth import synth

    new = tmp_path / "new"
    synth(new, n=12, size=(64, 96), seed=5)
    twin = tmp_path / "twin"
    shutil.copytree(base_run, twin)
    first = edgeinc.extend(base_run, new_classes=["car"], method="cil", data=new)
    hidden = street_data.with_name("hidden")
    street_data.rename(hidden)
    try:
        second = edgeinc.extend(twin, new_classes=["car"], method="cil", data=new)
    finally:
        hidden.rename(street_data)
    assert weights(twin, 1) == weights(base_run, 1)
    assert first.score.miou == second.score.miou


def test_old_labels_on_new_images_are_not_used(street_data, base_run, tmp_path):
    """Wiping every old class from the new masks changes nothing but the score."""
    import cv2

    from edgeinc.data import open_dataset

    wiped, twin = tmp_path / "wiped", tmp_path / "twin"
    shutil.copytree(street_data, wiped)
    shutil.copytree(base_run, twin)
    car = open_dataset(street_data).label("car").id
    for path in (wiped / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(mask == car, mask, 255).astype(np.uint8))
    edgeinc.extend(base_run, new_classes=["car"], method="cil", data=street_data)
    edgeinc.extend(twin, new_classes=["car"], method="cil", data=wiped)
    assert weights(twin, 1) == weights(base_run, 1)


# ------------------------------------------------------------------------------ reproducibility


def test_same_seed_same_bytes_whatever_the_workers(street_data, tmp_path):
    runs = []
    for name, workers in (("a", 0), ("b", 3)):
        edgeinc.train(
            street_data,
            classes=["road", "sky"],
            size=(64, 96),
            run=tmp_path / name,
            sets=["model.width=0.125"],
            **{**QUICK, "workers": workers},
        )
        runs.append(weights(tmp_path / name, 0))
    assert runs[0] == runs[1]
    edgeinc.train(
        street_data,
        classes=["road", "sky"],
        size=(64, 96),
        run=tmp_path / "c",
        sets=["model.width=0.125"],
        seed=1,
        **QUICK,
    )
    assert weights(tmp_path / "c", 0) != runs[0]


def test_accumulated_batches_make_one_iteration(street_data, tmp_path):
    edgeinc.train(
        street_data,
        classes=["road"],
        size=(64, 96),
        run=tmp_path / "a",
        sets=["model.width=0.125"],
        accumulate=2,
        **{**QUICK, "batch_size": 2},
    )
    assert len(open_run(tmp_path / "a").metrics(0)) == 2 * (16 // 2 // 2)


SLOW_TRAIN = """
import sys, edgeinc
edgeinc.train(sys.argv[1], classes=["road", "sky"], size=(64, 96), run=sys.argv[2], resume=True,
              sets=["model.width=0.125"], epochs=6, batch_size=4, precision="fp32", threads=1)
"""

SLOW_EXTEND = """
import sys, edgeinc
edgeinc.extend(sys.argv[2], new_classes=["car", "tree"], method="cil", resume=True, epochs=6)
"""

TRAIN_UNTIL_CTRL_C = """
import sys, edgeinc
from edgeinc.errors import Interrupted
try:
    edgeinc.train(sys.argv[1], classes=["road", "sky"], size=(64, 96), run=sys.argv[2],
                  sets=["model.width=0.125"], epochs=200, batch_size=4, threads=1)
except Interrupted as error:
    print(error.message, error.hint)
    sys.exit(error.exit_code)
"""

HOLD_LOCK = """
import sys
from edgeinc.runs import open_run
with open_run(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def process(code, data, run, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(data), str(run)], env=environment, **options
    )


def here(code, data, run, monkeypatch):
    """What `process` does, in this one."""
    monkeypatch.setattr(sys, "argv", ["-c", str(data), str(run)])
    exec(code, {})


def wait_for_state(folder, child, at_least=1):
    """Until the state was written `at_least` times; the number of iterations it holds."""
    from safetensors import safe_open

    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and child.poll() is None:
        state = folder / "state.safetensors"
        if state.exists():
            with safe_open(state, framework="np") as file:
                done = json.loads(file.metadata()["edgeinc"])["iteration"]
            if done >= at_least:
                return done
        time.sleep(0.01)
    raise AssertionError("the state was never written")


@pytest.mark.parametrize("step", [0, 1])
def test_killed_and_resumed_gives_the_bytes_of_an_uninterrupted_run(
    step, street_data, base_run, tmp_path, monkeypatch
):
    code = SLOW_EXTEND if step else SLOW_TRAIN
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    if step:
        shutil.copytree(base_run, whole)
        shutil.copytree(base_run, killed)
    here(code, street_data, whole, monkeypatch)
    for at_least in (4, 12):
        child = process(code, street_data, killed)
        done = wait_for_state(killed / f"step-{step}", child, at_least=at_least)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert open_run(killed).pending.index == step
    assert done < open_run(whole).step(step).iterations
    here(code, street_data, killed, monkeypatch)
    assert weights(killed, step) == weights(whole, step)
    terms = [
        {k: v for k, v in row.items() if k not in ("seconds", "wait_s")}
        for row in open_run(killed).metrics(step)
    ]
    expected = [
        {k: v for k, v in row.items() if k not in ("seconds", "wait_s")}
        for row in open_run(whole).metrics(step)
    ]
    assert terms == expected


def test_ctrl_c_finishes_the_iteration_saves_and_names_the_way_on(street_data, tmp_path):
    run = tmp_path / "run"
    child = process(TRAIN_UNTIL_CTRL_C, street_data, run, stdout=subprocess.PIPE, text=True)
    wait_for_state(tmp_path / "run" / "step-0", child)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == 130
    for part in (f"edgeinc train --data {street_data}", f"--run {run}", "--epochs 200", "--resume"):
        assert part in out
    rows = (tmp_path / "run" / "step-0" / "metrics.jsonl").read_text().splitlines()
    assert f"after iteration {len(rows)} of" in out


def test_interrupted_step_is_neither_skipped_nor_overwritten_silently(base_run):
    run = open_run(base_run)
    step = edgeinc.extend(base_run, new_classes=["car"], method="cil", dry_run=True).steps[0]
    from dataclasses import replace

    run.write_step(replace(step, status="running"))
    with pytest.raises(RunError, match=r"step 1 .* was interrupted") as error:
        edgeinc.extend(base_run, new_classes=["car"], method="cil")
    assert "--resume" in error.value.hint
    with pytest.raises(UsageError, match=r"lr 0\.0005 -> 0\.1"):
        edgeinc.extend(base_run, new_classes=["car"], method="cil", lr=0.1, resume=True)
    assert (
        edgeinc.extend(base_run, new_classes=["car"], method="cil", resume=True).steps[0].status
        == "done"
    )


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"new_classes": ["lorry"]}, UsageError, "unknown class 'lorry'"),
        ({"new_classes": ["sky"]}, UsageError, "class 'sky' was learned at step 0"),
        ({"new_classes": ["car", "car"]}, UsageError, "class 'car' is named twice"),
        ({"new_classes": []}, UsageError, "no new class was named"),
        ({"new_classes": ["car"], "method": "cill"}, UsageError, "unknown method 'cill'"),
        (
            {"new_classes": ["car"], "sets": ["method.entropy=1"]},
            UsageError,
            "unknown setting 'method.entropy'",
        ),
        ({"new_classes": ["car"], "sets": ["model.width=1"]}, UsageError, "fixed by step 0"),
        (
            {"new_classes": ["car"], "data": "nowhere"},
            UsageError,
            "'nowhere' is neither a dataset nor a folder",
        ),
        ({"all_steps": True}, UsageError, "--all needs a scenario"),
        ({"new_classes": ["car"], "device": "cuda"}, MissingError, "finds no CUDA GPU"),
        ({"new_classes": ["car"], "precision": "fp16"}, MissingError, "fp16 needs a GPU"),
        ({"new_classes": ["car"], "epochs": 0}, UsageError, "epochs = 0"),
        (
            {
                "new_classes": ["car"],
                "method": "cil",
                "sets": ["method.init=fresh"],
                "init": "none.pth",
            },
            UsageError,
            r"no such weights file: none\.pth",
        ),
    ],
)
def test_bad_request_is_one_clear_line_and_nothing_is_lost(base_run, arguments, error, message):
    if arguments.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    before = contents(base_run)
    with pytest.raises(error, match=message) as caught:
        edgeinc.extend(base_run, **arguments)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert contents(base_run) == before


def test_size_the_network_cannot_divide_names_the_next(street_data, tmp_path):
    with pytest.raises(UsageError, match="size 60x96 is not divisible by 8") as error:
        edgeinc.train(street_data, size=(60, 96), run=tmp_path / "run")
    assert "--size 64x96" in error.value.hint


def test_classes_may_be_one_text_as_on_the_command_line(street_data, base_run, tmp_path):
    planned = edgeinc.extend(base_run, new_classes="car, bus", method="cil", dry_run=True)
    assert planned.steps[0].new_classes == ("car", "bus")
    first = edgeinc.train(street_data, classes="road,sky", size=(64, 96), dry_run=True)
    assert first.steps[0].new_classes == ("road", "sky")
    with pytest.raises(UsageError, match="an empty name in new_classes 'car,'"):
        edgeinc.extend(base_run, new_classes="car,", method="cil")


def test_extend_before_train(tmp_path):
    with pytest.raises(UsageError, match="no run at"):
        edgeinc.extend(tmp_path / "none", new_classes=["car"])


def test_train_over_an_existing_run_needs_a_word(base_run, street_data):
    with pytest.raises(UsageError, match=r"already exists \(1 finished step\)") as error:
        edgeinc.train(street_data, size=(64, 96), run=base_run)
    assert "--resume" in error.value.hint
    assert "--overwrite" in error.value.hint


def test_data_without_a_pixel_of_the_new_class(base_run, tmp_path, street_data):
    import cv2

    from edgeinc.data import open_dataset

    empty = tmp_path / "empty"
    shutil.copytree(street_data, empty)
    car = open_dataset(street_data).label("car").id
    for path in (empty / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(mask == car, 255, mask).astype(np.uint8))
    with pytest.raises(DataError, match="no pixel of class 'car'"):
        edgeinc.extend(base_run, new_classes=["car"], method="cil", data=empty)


def test_checkpoint_with_a_changed_byte_is_refused(base_run):
    path = base_run / "step-0" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"weights\.safetensors was changed"):
        edgeinc.extend(base_run, new_classes=["car"], method="cil")


def test_run_in_use_by_another_process_is_refused(base_run):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(base_run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}"):
            edgeinc.extend(base_run, new_classes=["car"], method="cil")
        holder.stdin.close()


def test_loss_that_is_not_finite_names_the_term_and_keeps_the_checkpoint(base_run):
    path = base_run / "step-0" / "weights.safetensors"
    state = load_file(path)
    state["head.0.weight"] = torch.full_like(state["head.0.weight"], float("nan"))
    save_file(state, path)
    file = base_run / "step-0" / "step.json"
    step = json.loads(file.read_text())
    step["weights_sha256"] = sha256(path)
    file.write_text(json.dumps(step))
    with pytest.raises(TrainingError, match="loss term 'ce' became nan"):
        edgeinc.extend(base_run, new_classes=["car"], method="cil")
    assert len(open_run(base_run).steps) == 1


FULL_DISK = """
import resource, sys, edgeinc
from edgeinc.errors import EdgeincError
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    edgeinc.extend(sys.argv[2], new_classes=["car"], method="cil")
except EdgeincError as error:
    print(type(error).__name__, error.message, "|", error.hint)
"""


def test_disk_that_fills_during_a_save_loses_nothing(base_run, street_data):
    """Files may not grow over 100 kB: step.json fits, the state does not."""
    before = weights(base_run, 0)
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(street_data), str(base_run), "100000"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "RunError the disk is full: cannot write" in done.stdout, done.stderr
    assert "--resume" in done.stdout
    assert weights(base_run, 0) == before
    assert not list(base_run.rglob(".*.safetensors.*")), "a temporary file was left"
    assert (
        edgeinc.extend(base_run, new_classes=["car"], method="cil", resume=True).steps[0].status
        == "done"
    )


# ------------------------------------------------------------------------------ settings that act


def test_frozen_batch_norm_statistics_stay_through_an_extension(base_run):
    edgeinc.extend(base_run, new_classes=["car"], method="cil", freeze_bn_stats=True)
    run = open_run(base_run)
    old, new = load_file(run.weights(0)), load_file(run.weights(1))
    running = [k for k in old if "running" in k]
    assert running
    assert all(torch.equal(old[k], new[k]) for k in running)
    assert any(not torch.equal(old[k], new[k]) for k in old if k.endswith("conv.weight"))


@pytest.mark.parametrize(("method", "options"), [("joint", ()), ("cil", ("method.init=fresh",))])
def test_statistics_of_a_network_that_starts_anew_are_not_frozen(base_run, method, options):
    frozen = {"freeze_bn_stats": True, "freeze_bn_affine": True}
    edgeinc.extend(base_run, new_classes=["car"], method=method, sets=options, **frozen)
    tensors = load_file(open_run(base_run).weights(1))
    means = [v for k, v in tensors.items() if k.endswith("running_mean")]
    assert means
    assert all(bool(v.any()) for v in means)


def test_a_step_that_its_method_refuses_leaves_nothing_behind(base_run):
    edgeinc.extend(base_run, new_classes=["car"], method="ewc")
    with pytest.raises(UsageError, match="fisher=exact") as refused:
        edgeinc.extend(base_run, new_classes=["bus"], method="ewc", sets=("method.fisher=exact",))
    assert open_run(base_run).pending is None
    assert "method.fisher=online" in refused.value.hint
    edgeinc.extend(base_run, new_classes=["bus"], method="ewc")


def test_options_of_a_method_go_on_while_the_method_does(base_run):
    edgeinc.extend(
        base_run, new_classes=["car"], method="cil", sets=["method.entropy_weights=false"]
    )
    edgeinc.extend(base_run, new_classes=["bus"])
    assert open_run(base_run).step(2).method_options["entropy_weights"] is False
    (changed,) = edgeinc.extend(
        base_run, new_classes=["tree"], sets=["method.entropy_weights=true"], dry_run=True
    ).steps
    assert changed.method_options["entropy_weights"] is True
    (other,) = edgeinc.extend(base_run, new_classes=["tree"], method="lwof", dry_run=True).steps
    assert "entropy_weights" not in other.method_options


def test_bf16_trains_close_to_fp32(base_run, tmp_path):
    twin = tmp_path / "twin"
    shutil.copytree(base_run, twin)
    edgeinc.extend(base_run, new_classes=["car"], method="cil", precision="fp32")
    edgeinc.extend(twin, new_classes=["car"], method="cil", precision="bf16")
    first = [open_run(r).metrics(1)[0] for r in (base_run, twin)]
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], rel=0.05)
    assert weights(twin, 1) != weights(base_run, 1)


def test_fresh_start_does_not_depend_on_the_old_weights_beyond_the_teacher(base_run):
    edgeinc.extend(base_run, new_classes=["car"], method="cil", sets=["method.init=fresh"], lr=1e-9)
    run = open_run(base_run)
    old, new = load_file(run.weights(0)), load_file(run.weights(1))
    key = "encoder.0.conv.weight"
    assert not torch.allclose(old[key], new[key], atol=1e-3)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_every_optimizer_moves_the_weights(base_run, optimizer):
    edgeinc.extend(base_run, new_classes=["car"], method="finetune", optimizer=optimizer, epochs=1)
    run = open_run(base_run)
    assert not torch.equal(
        load_file(run.weights(0))["head.0.weight"], load_file(run.weights(1))["head.0.weight"]
    )


def test_class_weights_are_the_formula_on_the_labelled_pixels(base_run, street_data):
    """1 / ln(1.1 + p) from pixels counted here, image by image."""
    import math

    from edgeinc.data import open_dataset
    from edgeinc.progress import SILENT
    from edgeinc.training import plan as planning
    from edgeinc.training.steps import _plan_extension

    data = open_dataset(street_data)
    ids = {n: data.label(n).id for n in ("car", "bus")}
    pixels = dict.fromkeys(ids, 0)
    for image in data.ids("train"):
        mask = data.mask(image)
        for name, value in ids.items():
            pixels[name] += int((mask == value).sum())
    share = {n: p / sum(pixels.values()) for n, p in pixels.items()}
    plan = _plan_extension(
        open_run(base_run),
        None,
        names=["car", "bus"],
        method="cil",
        data=None,
        data_root=None,
        layers=[],
        progress=SILENT,
    )
    found = planning.class_weights(plan)
    assert found.tolist()[3:] == pytest.approx(
        [1 / math.log(1.1 + share[n]) for n in ("car", "bus")], rel=1e-5
    )


def test_limit_takes_the_first_images_that_show_the_class_and_is_not_inherited(base_run):
    first = edgeinc.extend(base_run, new_classes=["bus"], method="finetune", limit=3).steps[0]
    assert first.images == 3
    assert edgeinc.extend(base_run, new_classes=["car"], dry_run=True).steps[0].images > 3


@pytest.mark.parametrize(
    ("images", "model", "expected"),
    [
        ((64, 96), "erfnet", "64x96"),
        ((100, 150), "bisenet", "96x160"),
        ((700, 1024), "erfnet", "352x512"),
    ],
)
def test_size_that_is_not_given_is_that_of_the_images_as_the_network_can_take_it(
    tmp_path, images, model, expected
):
    """700x1024 is halved to 350x512, whose height the network takes as 352."""
    from edgeinc.data._synth import synth

    synth(tmp_path / "data", n=2, size=images, seed=0)
    plan = edgeinc.train(
        tmp_path / "data", classes=["road"], model=model, run=tmp_path / "run", dry_run=True
    )
    assert f"--size {expected}" in plan.steps[0].command


PLAN = """
name = "three"
[[step]]
classes = ["road", "sky"]
part = [1, 2]
[[step]]
classes = ["tree"]
part = [2, 2]
[[step]]
classes = ["car"]
"""


def test_scenario_gives_classes_and_images_of_every_step_left(street_data, tmp_path):
    plan, run = tmp_path / "plan.toml", tmp_path / "run"
    plan.write_text(PLAN)
    common = {"sets": ["model.width=0.125"], **QUICK, "epochs": 1}
    base = edgeinc.train(street_data, scenario=str(plan), size=(64, 96), run=run, **common)
    assert base.steps[0].new_classes == ("road", "sky")
    assert base.steps[0].images == 8, "the first half of 16"
    with pytest.raises(UsageError, match=r"plans tree for step 1, not car"):
        edgeinc.extend(run, new_classes=["car"], method="cil")
    steps = edgeinc.extend(run, all_steps=True, method="cil").steps
    assert [s.new_classes for s in steps] == [("tree",), ("car",)]
    assert steps[0].images == 8, "a part is taken whole, whatever it shows"
    with pytest.raises(UsageError, match="has no step 3: all 3 steps are done"):
        edgeinc.extend(run, all_steps=True)
    extra = edgeinc.extend(run, new_classes=["bus"], data=street_data)
    assert extra.steps[0].index == 3


def test_scenario_may_come_with_the_first_extension_if_it_fits(base_run, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    with pytest.raises(UsageError, match=r"step 0 of .* has classes road, sky, building"):
        edgeinc.extend(base_run, scenario=str(plan), all_steps=True)
    plan.write_text(PLAN.replace('"road", "sky"', '"road", "sky", "building"'))
    assert len(edgeinc.extend(base_run, scenario=str(plan), all_steps=True).steps) == 2
    assert open_run(base_run).info.scenario.name == "three"
