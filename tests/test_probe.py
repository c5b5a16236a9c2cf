"""The first run of a bundle, on the real runtime, and the trial that follows it."""

from dataclasses import replace

import numpy as np
import pytest
from devices import GATES
from networks import SIZE, brightest, network

from edgeinc.errors import MissingError
from edgeinc.update.probe import probe
from edgeinc.update.trial import Window

CPU = "CPUExecutionProvider"


# ------------------------------------------------------------------------------------------ probe


@pytest.fixture
def slot(tmp_path):
    """Writes a slot that holds a network, and proves it."""
    pytest.importorskip("onnxruntime")

    def prove(weights=(1, 1, 1), *, asked=True, classes=3, questions=None, gates=GATES, **how):
        from edgeinc.runtimes import _golden

        golden = _golden.ask(brightest, SIZE) if asked else None
        content = network(weights, golden=golden, classes=classes)
        (tmp_path / "model.onnx").write_bytes(content)
        if questions is not None:
            with (tmp_path / "golden.npz").open("wb") as file:
                np.savez(file, **questions)
        return probe(tmp_path, gates, "onnxruntime", "cpu", **how)

    return prove


def test_a_sound_bundle_passes_and_says_what_was_found(slot):
    found = slot(gates=replace(GATES, providers=(CPU,), max_p95_ms=10_000.0))
    assert (found.verdict, found.why, found.provider) == ("good", "", CPU)
    assert found.golden_percent == 100.0
    assert found.p95_ms > 0


def test_wrong_answers_are_found(slot):
    found = slot((1, 1, 2))
    assert found.verdict == "bad"
    assert "golden answers are wrong" in found.why


def test_questions_beside_the_model_are_asked_too(slot):
    image = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    assert slot(questions={"images": image, "ids": brightest(image)}).verdict == "good"
    wrong = slot(questions={"images": image, "ids": 2 - brightest(image)})
    assert wrong.verdict == "bad"
    assert wrong.golden_percent < 60
    assert "golden" in slot(questions={"images": image}).why


def test_another_provider_than_those_allowed_is_found(slot):
    found = slot(gates=replace(GATES, providers=("CUDAExecutionProvider",)))
    assert found.verdict == "bad"
    assert f"it computes on {CPU}, and only CUDAExecutionProvider" in found.why


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_found(slot, value):
    found = slot((1, value, 1))
    assert found.verdict == "bad"
    assert "not finite" in found.why


def test_one_class_everywhere_is_found_without_golden_answers(slot):
    assert slot(asked=False).verdict == "good"
    found = slot((0, 0, 9), asked=False)
    assert "one class to" in found.why


def test_ids_that_are_no_class_are_found(slot):
    assert "no class" in slot(classes=2, asked=False).why


def test_too_slow_and_too_large_and_hanging_are_found(slot):
    assert "the gate is 0.0 ms" in slot(gates=replace(GATES, max_p95_ms=1e-6)).why
    assert "MB of memory" in slot(memory_bytes=1 << 20).why
    assert "took more than 0 s" in slot(timeout_s=0).why


def test_a_file_that_is_no_network_is_found(slot, tmp_path):
    slot()
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08not an onnx file")
    assert probe(tmp_path, GATES, "onnxruntime", "cpu").verdict == "bad"


def test_a_missing_accelerator_is_no_fault_of_the_bundle(slot, tmp_path):
    slot()
    with pytest.raises(MissingError):
        probe(tmp_path, GATES, "onnxruntime", "quantum")


def test_a_child_that_is_killed_says_nothing_about_the_bundle(slot, monkeypatch, tmp_path):
    (tmp_path / "dies.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setattr("edgeinc.update.probe.CHILD", "dies")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = slot()
    assert (found.verdict, "killed from outside" in found.why) == ("interrupted", True)


# ------------------------------------------------------------------------------------------ trial


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def judged(ids, *, frames=20, seconds=10.0, ms=10.0, before=None, classes=3, old=2, **gates):
    """A window that is shown one answer again and again."""
    clock = Clock()
    window = Window(replace(GATES, **gates), classes=classes, old_classes=old, clock=clock)
    for _ in range(frames):
        clock.now += seconds / frames
        verdict = window.frame(ms, ids, before)
        if verdict is not None:
            return verdict
    return None


MIXED = np.arange(32 * 48, dtype=np.uint8).reshape(32, 48) // 4 % 3


def test_a_trial_ends_when_both_seconds_and_frames_are_full():
    assert judged(MIXED, frames=20, seconds=10.0).verdict == "good"
    assert judged(MIXED, frames=19, seconds=100.0) is None
    assert judged(MIXED, frames=100, seconds=9.9) is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"ids": np.full((32, 48), 1, np.uint8)}, "class 1 filled 100.0 %"),
        ({"ids": MIXED, "ms": 41.0, "max_p95_ms": 40.0}, "41.0 ms"),
        ({"ids": MIXED + 1}, "id 3 is no class"),
        (
            {"ids": MIXED, "before": (MIXED + 1) % 3, "min_agreement_old_percent": 90.0},
            "0.0 % of the pixels of old classes",
        ),
    ],
)
def test_a_bad_trial_says_why(how, words):
    found = judged(**how)
    assert found.verdict == "bad"
    assert words in found.why


def test_pixels_of_new_classes_are_no_disagreement():
    before = np.where(MIXED == 2, 0, MIXED).astype(np.uint8)
    assert judged(MIXED, before=before, min_agreement_old_percent=100.0).verdict == "good"


def test_a_frame_without_an_answer_ends_the_trial():
    window = Window(GATES, classes=3, old_classes=2, clock=Clock())
    assert window.fault("it raised RuntimeError").verdict == "bad"
