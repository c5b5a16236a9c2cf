"""Steps with a decoder of their own, and what fine-tuning, feature extraction and linear freeze."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgeinc
from edgeinc import registry
from edgeinc.config import TrainSettings
from edgeinc.errors import UsageError
from edgeinc.methods import StepContext
from edgeinc.models import Head, Model, Output, create, own_decoders, restored
from edgeinc.models._fold import folded
from edgeinc.runs import open_run
from edgeinc.runtimes import open_artifact
from edgeinc.schema import VOID
from edgeinc.training.loop import make_optimizer

SMALL = {"width": 0.125}
OLD, NEW = 3, 2
DECODERS = ("finetune_decoder", "feature_extraction")


@pytest.fixture(params=registry.names("models"))
def name(request):
    return request.param


def pictures(seed=0, batch=4):
    return torch.randn(batch, 3, 32, 64, generator=torch.Generator().manual_seed(seed))


def logits(model, x=None):
    was = model.training
    model.eval()
    with torch.no_grad():
        found = model(pictures() if x is None else x).logits
    model.train(was)
    return found


def base(name):
    """A network with statistics of its own."""
    torch.manual_seed(0)
    model = create(name, [OLD], SMALL)
    model.train()(pictures(9, 8))
    return model.eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# --------------------------------------------------------------------------- the networks


def test_own_decoder_changes_no_old_logit_and_no_old_key(name):
    model = base(name)
    before, state = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    model.grow_decoder(NEW)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in state.items())
    assert {k.split(".")[:2] == ["branches", "1"] for k in after.keys() - state.keys()} == {True}
    assert model.steps == (OLD, NEW)
    assert logits(model).shape == (4, OLD + NEW, 32, 64)
    torch.testing.assert_close(logits(model)[:, :OLD], before)


def test_new_logits_come_from_the_new_decoder_alone(name):
    model = base(name)
    model.grow_decoder(NEW)
    before = logits(model)
    with torch.no_grad():
        for module in model.decoders()[:-1]:
            for parameter in module.parameters():
                parameter.normal_()
    after = logits(model)
    torch.testing.assert_close(after[:, OLD:], before[:, OLD:])
    assert not torch.allclose(after[:, :OLD], before[:, :OLD])


def test_erfnets_decoder_is_the_whole_decoder_again():
    """The transposed convolutions 128-64 and 64-16, two blocks of 64 and two of 16, their BN."""

    def up(a, b):
        return 9 * a * b + b + 2 * b

    def block(c):
        return 4 * (3 * c * c + c) + 2 * 2 * c

    decoder = up(128, 64) + 2 * block(64) + up(64, 16) + 2 * block(16)
    model = create("erfnet", [OLD])
    before = parameters(model)
    model.grow_decoder(NEW)
    assert parameters(model) - before == decoder + 64 * NEW + NEW


@pytest.mark.parametrize(
    ("steps", "own"), [((3, 2), {1}), ((3, 2, 1), {1, 2}), ((2, 1, 3, 1), {2, 3}), ((3, 2), set())]
)
def test_a_state_dict_says_which_steps_have_their_own_decoder(name, steps, own):
    torch.manual_seed(1)
    model = create(name, steps, SMALL, decoders=own)
    state = model.state_dict()
    assert own_decoders(state) == own
    assert model.steps == steps
    again = restored(name, steps, state, SMALL)
    assert torch.equal(logits(again), logits(model))


def test_folded_network_with_own_decoders_answers_as_before(name):
    torch.manual_seed(2)
    model = create(name, [2, 1, 2], SMALL, decoders=[1, 2])
    model.train()(pictures(3, 8))
    lean = folded(model)
    assert not any(isinstance(m, torch.nn.BatchNorm2d | Head) for m in lean.modules())
    torch.testing.assert_close(logits(lean), logits(model), atol=2e-4, rtol=1e-3)


def test_after_an_own_decoder_the_first_head_does_not_grow_any_more(name):
    model = create(name, [2, 1], SMALL, decoders=[1])
    with pytest.raises(UsageError, match="step 1 has a decoder of its own") as error:
        model.grow(1)
    assert "finetune_decoder" in error.value.hint


def test_frozen_statistics_are_those_that_were_there(name):
    model = base(name)
    model.freeze_bn(stats=True, affine=True)
    model.grow_decoder(NEW)
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model.train()(pictures())
    moved = {k for k, v in before.items() if not torch.equal(v, model.state_dict()[k])}
    assert moved == {k for k in before if k.startswith("branches.1.")}
    assert all(p.requires_grad for p in model.branches["1"].parameters())


def test_a_network_that_does_not_say_what_its_decoder_is_refuses_in_one_line():
    class Tiny(Model):
        def __init__(self):
            super().__init__()
            self.head = Head(3, 2, "conv1x1")

        def heads(self):
            return (self.head,)

        def forward(self, x):
            return Output(self.head(x))

    with pytest.raises(UsageError, match="Tiny has no decoder that a step could have of its own"):
        Tiny().grow_decoder(1)


# ---------------------------------------------------------------------------- the methods


def extended(method, name, iterations=3):
    """A step of training by a method: (network, its state before, network of the step before)."""
    old = base(name)
    plugin = registry.load("methods", method)
    built = plugin(plugin.Config(), StepContext(OLD, OLD + NEW, "none", None))
    torch.manual_seed(5)
    model = restored(name, [OLD], old.state_dict(), SMALL)
    built.grow(model, NEW)
    built.begin(model, old)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = make_optimizer(built.groups(model), TrainSettings(lr=1e-2))
    model.train()
    for seed in range(iterations):
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(OLD, OLD + NEW, (4, 32, 64), generator=generator)
        labels[:, :8] = VOID
        optimizer.zero_grad(set_to_none=True)
        torch.stack(
            list(built.terms(model(pictures(seed)), labels, None).values())
        ).sum().backward()
        optimizer.step()
    return model, before, old


def moved(model, before):
    after = model.state_dict()
    return {k for k, v in before.items() if not torch.equal(v, after[k])}


def kind(key, name):
    """Which part of the network a tensor belongs to."""
    first = {"erfnet": ("decoder", "head"), "bisenet": ("fuse", "classifier", "aux16", "aux32")}
    if key.startswith("branches."):
        return "new"
    return "old decoder" if key.split(".")[0] in first[name] else "encoder"


def test_feature_extraction_moves_the_new_decoder_and_nothing_else(name):
    model, before, old = extended("feature_extraction", name)
    assert {kind(k, name) for k in moved(model, before)} == {"new"}
    assert any("running_mean" in k for k in moved(model, before)), "new statistics must be learnt"
    torch.testing.assert_close(logits(model)[:, :OLD], logits(old), atol=1e-6, rtol=0)


def test_fine_tuning_moves_the_encoder_and_the_new_decoder_but_no_old_one(name):
    model, before, old = extended("finetune_decoder", name)
    changed = moved(model, before)
    assert {kind(k, name) for k in changed} == {"encoder", "new"}
    assert any("running_mean" in k and kind(k, name) == "encoder" for k in changed)
    assert not torch.allclose(logits(model)[:, :OLD], logits(old))


def test_linear_moves_the_new_rows_and_nothing_else(name):
    model, before, old = extended("linear", name)
    head = {"erfnet": "head", "bisenet": "classifier.head"}[name]
    assert moved(model, before) == {f"{head}.1.weight", f"{head}.1.bias"}
    torch.testing.assert_close(logits(model)[:, :OLD], logits(old), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", [*DECODERS, "linear"])
def test_step_0_learns_everything(method, name):
    plugin = registry.load("methods", method)
    built = plugin(plugin.Config(), StepContext(0, OLD, "none", None))
    model = create(name, [OLD], SMALL)
    built.begin(model, None)
    model.train()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    labels = torch.randint(0, OLD, (4, 32, 64))
    found = built.terms(model(pictures()), labels, None)
    assert set(found) == ({"ce", "aux"} if name == "bisenet" else {"ce"})


@pytest.mark.parametrize("method", DECODERS)
@pytest.mark.parametrize("weights", [None, [9.0, 9.0, 9.0, 0.5, 2.0]])
def test_loss_is_the_cross_entropy_among_the_new_classes_where_they_are_labelled(method, weights):
    generator = torch.Generator().manual_seed(3)
    z = (torch.randn(1, 5, 2, 3, generator=generator) * 3).requires_grad_(True)
    labels = torch.tensor([[[3, 4, VOID], [4, 0, 2]]])
    plugin = registry.load("methods", method)
    tensor = None if weights is None else torch.tensor(weights)
    built = plugin(plugin.Config(), StepContext(3, 5, "none", tensor))
    loss = built.terms(Output(z), labels, None)["ce"]
    total = share = 0.0
    for row, column, label in ((0, 0, 3), (0, 1, 4), (1, 0, 4)):
        a, b = z.detach().double()[0, 3:, row, column].tolist()
        own, other = (a, b) if label == 3 else (b, a)
        w = weights[label] if weights else 1.0
        total += w * math.log1p(math.exp(other - own))
        share += w
    assert float(loss.detach()) == pytest.approx(total / share, rel=1e-5)
    loss.backward()
    assert float(z.grad[:, :3].abs().max()) == 0
    assert torch.equal(
        (z.grad[0, 3] != 0), torch.tensor([[True, True, False], [True, False, False]])
    )


# ----------------------------------------------------------------------- runs and artifacts

QUICK = {"epochs": 1, "batch_size": 4, "precision": "fp32", "threads": 1, "workers": 0}


@pytest.fixture(scope="module", params=["erfnet", "bisenet"])
def run(request, street_data, tmp_path_factory):
    """A run of three steps: base, feature extraction, fine-tuning with a decoder."""
    folder = tmp_path_factory.mktemp("decoders") / request.param
    options = {"model": request.param, "sets": ["model.width=0.125"], "size": (64, 96)}
    edgeinc.train(street_data, classes=["road", "sky"], run=folder, **options, **QUICK)
    edgeinc.extend(folder, new_classes=["building", "tree"], method="feature_extraction")
    edgeinc.extend(folder, new_classes=["car"], method="finetune_decoder")
    return folder


def test_a_run_keeps_one_decoder_per_step(run):
    states = [load_file(open_run(run).weights(i)) for i in range(3)]
    assert [own_decoders(s) for s in states] == [set(), {1}, {1, 2}]
    assert all(torch.equal(states[1][k], v) for k, v in states[0].items())
    frozen = [k for k in states[1] if kind(k, run.name) != "encoder"]
    assert all(torch.equal(states[2][k], states[1][k]) for k in frozen)
    scores = open_run(run).score(2)
    assert [c.name for c in scores.classes] == ["road", "sky", "building", "tree", "car"]


def test_old_classes_score_the_same_after_feature_extraction(run):
    before, after = open_artifact(run / "step-0"), open_artifact(run / "step-1")
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), dtype=np.uint8)
    old, new = before.logits(image), after.logits(image)
    assert new.shape == (1, 4, 64, 96)
    assert np.abs(new[:, :2] - old).max() < 1e-5


@pytest.fixture(scope="module")
def exported(run):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return edgeinc.export(run)


def test_exported_file_has_every_decoder_and_decides_as_the_network(exported):
    import onnx

    assert exported.card.parity.passed
    assert exported.card.parity.agreement >= 99.9
    graph = onnx.load(exported.path).graph
    names = {t.name for t in graph.initializer}
    assert {n.split(".")[1] for n in names if n.startswith("branches.")} == {"1", "2"}
    assert {node.op_type for node in graph.node} >= {"Concat", "ArgMax"}


def test_structure_of_an_exported_file_depends_on_the_decoders_not_on_their_weights(run, exported):
    from edgeinc.deploy._graph import to_onnx
    from edgeinc.runtimes._topology import topology_sha256

    torch.manual_seed(1)
    other = create(run.name, [2, 2, 1], SMALL, decoders=[1, 2])
    assert topology_sha256(to_onnx(other, (64, 96))) == exported.card.topology_sha256


def files(folder):
    return {
        p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file() and ".lock" not in p.name
    }


def test_other_methods_are_refused_before_anything_is_written(run):
    before = files(run)
    with pytest.raises(UsageError, match="step 1 has a decoder of its own"):
        edgeinc.extend(run, new_classes=["bus"], method="cil")
    with pytest.raises(UsageError, match="step 1 has a decoder of its own"):
        edgeinc.extend(run, new_classes=["bus"], method="finetune", dry_run=True)
    assert files(run) == before


def test_a_method_that_starts_anew_may_follow(run):
    plan = edgeinc.extend(run, new_classes=["bus"], method="joint", dry_run=True)
    assert plan.steps[0].status == "planned"


def test_weights_with_own_decoders_are_not_imported_as_one_step(run, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file(load_file(open_run(run).weights(2)), file)
    with pytest.raises(UsageError, match="a decoder of its own for step 1, 2"):
        edgeinc.import_weights(
            file, model=run.name, classes=list("abcde"), run=tmp_path / "imported"
        )
