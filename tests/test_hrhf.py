"""HRHF: its terms by slow formulas, its joined batches, and what it leaves in a run."""

import json
import math
import shutil
import signal
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import edgeinc
from edgeinc.data._files import read_image
from edgeinc.errors import Interrupted, UsageError
from edgeinc.methods import StepContext, Survey
from edgeinc.methods._background import folded_new
from edgeinc.methods._losses import log_softmax
from edgeinc.methods.hrhf import FAKE, HRHF, distillation, merge, old_classes
from edgeinc.models import Output, create
from edgeinc.runs import open_run
from edgeinc.schema import VOID, InvertResult, from_json
from edgeinc.training.gallery import Gallery, picture
from edgeinc.training.inverting import invert

QUICK = ["method.per_class=3", "method.batch=8", "method.iterations=2"]
OLD, NEW = 3, 2
SIZE = (32, 64)


def softmax(values):
    e = [math.exp(v - max(values)) for v in values]
    return [v / sum(e) for v in e]


def pixels(tensor):
    return tensor.double().permute(0, 2, 3, 1).reshape(-1, tensor.shape[1]).tolist()


@pytest.fixture
def case():
    """Logits of student and teacher, and labels with new classes, void, rest and a made image."""
    torch.manual_seed(3)
    student, teacher = torch.randn(3, OLD + NEW, 4, 6) * 3, torch.randn(3, OLD, 4, 6) * 3
    labels = torch.randint(OLD, OLD + NEW, (3, 4, 6))
    labels[torch.rand(labels.shape) < 0.5] = 0
    labels[:, 0] = VOID
    labels[2] = FAKE
    return student, teacher, labels


def method(background="real", **options):
    return HRHF(HRHF.Config(**options), StepContext(OLD, OLD + NEW, background, None, seed=5))


# ---------------------------------------------------------------------------------- terms


def slow_merge(labels, teacher, *, void_too):
    merged = []
    for label, q in zip(labels.flatten().tolist(), pixels(teacher), strict=True):
        keep = OLD <= label != VOID or (label == VOID and not void_too)
        merged.append(label if keep else q.index(max(q)))
    return merged


@pytest.mark.parametrize("void_too", [False, True])
def test_labels_are_merged_pixel_by_pixel(case, void_too):
    _, teacher, labels = case
    before = labels.clone()
    found = merge(labels, teacher, OLD, void_too=void_too)
    assert found.flatten().tolist() == slow_merge(labels, teacher, void_too=void_too)
    assert torch.equal(labels, before)
    assert FAKE not in found


def test_a_teacher_that_is_certain_does_not_beat_a_new_label():
    teacher = torch.tensor([0.0, 200.0, 0.0]).view(1, 3, 1, 1)  # q is exactly one-hot
    labels = torch.full((1, 1, 1), OLD)
    assert int(merge(labels, teacher, OLD, void_too=False)) == OLD


def slow_terms(student, teacher, labels, background):
    folded = background != "none"
    merged = slow_merge(labels, teacher, void_too=not folded)
    ce, kd = [], []
    for s, t, m in zip(pixels(student), pixels(teacher), merged, strict=True):
        p, q = softmax(s), softmax(t)
        if m != VOID:
            ce.append(-math.log(p[m]))
        if folded:
            p[0] += sum(p[OLD:])
        if folded or m < OLD:
            kd.append(-sum(qc * math.log(p[c]) for c, qc in enumerate(q)))
    return {"ce": sum(ce) / len(ce), "kd": sum(kd) / len(kd)}


@pytest.mark.parametrize("background", ["none", "real", "virtual"])
def test_terms_follow_equations_3_to_5(case, background):
    student, teacher, labels = case
    found = method(background, lambda_kd=2.0).terms(Output(student), labels, Output(teacher))
    expected = slow_terms(student, teacher, labels, background)
    assert float(found["ce"]) == pytest.approx(expected["ce"], rel=1e-5)
    assert float(found["kd"]) == pytest.approx(2 * expected["kd"], rel=1e-5)


def test_distillation_sums_over_classes():
    """Two classes, both uniform: the entropy is ln 2, not half of it."""
    flat = torch.zeros(1, 2, 1, 1)
    assert float(distillation(log_softmax(flat), flat)) == pytest.approx(math.log(2))


def test_equal_answers_are_not_moved():
    teacher = torch.randn(1, OLD, 2, 2)
    student = teacher.clone().requires_grad_(True)
    distillation(log_softmax(student), teacher).backward()
    assert float(student.grad.abs().max()) < 1e-6


def test_distillation_passes_gradcheck():
    torch.manual_seed(0)
    teacher = torch.randn(1, 2, 2, 2)
    log_p = torch.log_softmax(torch.randn(1, 4, 2, 2, dtype=torch.float64), 1)
    log_p.requires_grad_(True)
    where = torch.tensor([[[True, False], [True, True]]])
    assert torch.autograd.gradcheck(lambda x: distillation(x, teacher, where), (log_p,))


def test_without_an_unlabelled_pixel_distillation_is_zero(case):
    student, teacher, _ = case
    labels = torch.full((3, 4, 6), OLD)
    terms = method("none").terms(Output(student), labels, Output(teacher))
    assert float(terms["kd"]) == 0


def test_a_step_starts_with_the_answers_of_the_one_before():
    torch.manual_seed(0)
    old = create("erfnet", [OLD], {"width": 0.125}).eval()
    model = create("erfnet", [OLD], {"width": 0.125})
    model.load_state_dict(old.state_dict())
    model.grow(NEW)
    method("virtual").begin(model, old)
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        folded, before = folded_new(model.eval()(x).logits, OLD), log_softmax(old(x).logits)
    torch.testing.assert_close(folded, before, atol=1e-5, rtol=0)


# ---------------------------------------------------------------------------------- batches


def prepared(background="real", **options):
    quick = {"per_class": 3, "batch": 8, "iterations": 1}
    made = method(background, **{**quick, **options})
    torch.manual_seed(0)
    old = create("erfnet", [OLD], {"width": 0.125}).eval()
    made.begin(create("erfnet", [OLD, NEW], {"width": 0.125}), old)
    x = torch.randn(2, 3, *SIZE)
    survey = Survey(lambda: iter([(x, torch.zeros(2, *SIZE).long())]), lambda net, x: net(x))
    assert made.prepare(survey, None) == {}
    return made


def real(batch=4):
    return torch.randn(batch, 3, *SIZE), torch.zeros(batch, *SIZE).long()


@pytest.mark.parametrize(("ratio", "joined"), [(1.0, 4), (2.0, 8), (0.5, 2), (0.0, 0)])
def test_a_batch_holds_as_many_made_images_as_asked(ratio, joined):
    x, labels = real()
    both, marked = prepared(fakes=ratio).blend(x, labels, 0)
    assert (len(both), len(marked)) == (4 + joined, 4 + joined)
    assert torch.equal(both[:4], x)
    assert (marked[4:] == FAKE).all()
    assert torch.equal(marked[:4], labels)


def test_what_a_batch_is_joined_with_depends_on_its_number_only():
    one, other = prepared(), prepared()
    x, labels = real()
    for number in (3, 0, 7):
        one.blend(x, labels, number + 1)
        assert torch.equal(one.blend(x, labels, number)[0], other.blend(x, labels, number)[0])


def test_every_made_image_is_seen_once_a_round():
    made = prepared()
    x, labels = real(2)
    seen = [made.blend(x, labels, number)[0][2:] for number in range(len(made._fakes) // 2)]
    sums = torch.cat(seen).double().sum((1, 2, 3))
    expected = made._fakes.to(x).double().sum((1, 2, 3))
    torch.testing.assert_close(sums.sort().values, expected.sort().values)


def test_a_background_is_no_class_to_make_images_of():
    assert list(old_classes(3, "real")) == list(old_classes(3, "virtual")) == [1, 2]
    assert list(old_classes(3, "none")) == [0, 1, 2]
    assert len(prepared("real")._fakes) == 8  # 6 images asked for, one batch
    x, labels = real()
    only = HRHF(HRHF.Config(), StepContext(1, 2, "real", None))
    only.begin(create("erfnet", [1, 1], {"width": 0.125}), create("erfnet", [1], {"width": 0.125}))
    assert only.prepare(Survey(lambda: iter([]), lambda net, x: net(x)), None) == {}
    assert only.blend(x, labels, 0)[0] is x


# ---------------------------------------------------------------------------------- runs


def files(run):
    return {p.relative_to(run): p.read_bytes() for p in (run / "inverted").rglob("*.*")}


def extend(run, **options):
    words = {"new_classes": ["car"], "method": "hrhf", "sets": QUICK, **options}
    return edgeinc.extend(run, **words)


def test_what_invert_made_an_extension_finds(base_run):
    result = invert(base_run, sets=QUICK)
    made = files(base_run)
    assert (result.images, [c.images for c in result.classes]) == (16, [6, 5, 5])
    assert sum(p.suffix == ".png" for p in made) == 16
    extend(base_run)
    assert files(base_run) == made
    assert invert(base_run, step=0, sets=QUICK) == result


def test_an_extension_keeps_its_images_under_the_network_they_came_from(base_run):
    extend(base_run)
    (folder,) = (base_run / "inverted").iterdir()
    assert open_run(base_run).step(0).weights_sha256.startswith(folder.name)
    first = open_run(base_run).weights(1).read_bytes()
    made = files(base_run)
    (base_run / "step-1" / "step.json").write_text(
        json.dumps(
            {**json.loads((base_run / "step-1" / "step.json").read_text()), "status": "running"}
        )
    )
    extend(base_run, overwrite=True)
    assert files(base_run) == made
    assert open_run(base_run).weights(1).read_bytes() == first


class CtrlC:
    """Progress that presses Ctrl-C at that iteration of the images."""

    def __init__(self, at):
        self.left = at

    @contextmanager
    def task(self, name, total, unit="it", done=0):
        self.counts, self.done = name == "invert", done
        yield self

    def advance(self, n=1, note=""):
        self.left -= self.counts
        if self.counts and not self.left:
            signal.raise_signal(signal.SIGINT)

    def message(self, text):
        pass


def test_ctrl_c_loses_no_iteration_and_says_how_to_go_on(base_run, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(base_run, whole)
    words = ["method.per_class=6", "method.batch=8", "method.iterations=5", "method.stop_loss=0"]
    invert(whole, sets=words)
    for at, part in ((3, "3 of 5 of images batch-000"), (4, "2 of 5 of images batch-001")):
        with pytest.raises(Interrupted, match=f"after iteration {part}; .* are saved") as caught:
            invert(base_run, sets=words, progress=CtrlC(at))
        assert "without --overwrite goes on" in caught.value.hint
    last = CtrlC(99)
    invert(base_run, sets=words, progress=last)
    assert last.done == 7
    pictures = [
        {name.name: content for name, content in files(run).items() if name.suffix == ".png"}
        for run in (whole, base_run)
    ]
    assert pictures[0] == pictures[1]
    assert len(pictures[0]) == 24  # 3 classes, 6 of each: the last of 3 batches is filled up


def test_ctrl_c_while_an_extension_makes_images_names_the_way_on(base_run):
    with pytest.raises(Interrupted, match="are saved") as caught:
        extend(base_run, progress=CtrlC(1))
    assert caught.value.hint.endswith("--resume")
    assert extend(base_run, resume=True).steps[0].status == "done"


def test_invert_changes_no_weight_and_nothing_else_of_the_run(base_run):
    before = {p: p.read_bytes() for p in base_run.rglob("*.*") if p.is_file()}
    invert(base_run, sets=QUICK)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_pictures_are_the_tensors_in_eight_bits(base_run, tmp_path):
    result = invert(base_run, sets=QUICK, out=tmp_path / "look")
    run = open_run(base_run)
    gallery = Gallery(run, run.step(0))
    key = result.folder.rpartition("/")[2]
    batch = gallery.load(f"{key}/batch-001")
    copied = sorted((tmp_path / "look").iterdir())
    assert len(copied) == 16
    assert copied[8].name.startswith("008-")
    assert copied[8].stem[4:] in ("road", "sky", "building")
    drawn = read_image(copied[8])
    assert np.array_equal(drawn, picture(batch["images"][0], run.info.normalisation))
    mean, std = (np.array(v) for v in run.info.normalisation)
    values = batch["images"][0].double().permute(1, 2, 0).numpy() * std + mean
    assert np.abs(drawn - values).max() <= 0.51


def test_a_batch_below_eight_is_refused(base_run):
    with pytest.raises(UsageError, match="batch = 4"):
        invert(base_run, sets=["method.batch=4"])


def test_overwrite_makes_them_again(base_run):
    first = invert(base_run, sets=QUICK)
    second = invert(base_run, sets=QUICK, overwrite=True)
    assert (first.found, first.bn_images) == (second.found, second.bn_images)
    assert first.seconds != second.seconds or first == second


def test_the_result_is_a_document(base_run):
    from edgeinc.schema import to_json

    result = invert(base_run, sets=QUICK)
    assert from_json(InvertResult, to_json(result), source="stdout") == result
