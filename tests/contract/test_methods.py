"""What every method promises, whichever files lie in `edgeinc/methods`, on real small networks."""

import copy
from dataclasses import fields, is_dataclass
from functools import cache

import pytest
import torch

from edgeinc import registry
from edgeinc.methods import StepContext, Survey
from edgeinc.models import create
from edgeinc.models._fold import folded
from edgeinc.schema import VOID

OLD, NEW = 3, 2
SIZE = (32, 64)
BATCH = 2
QUICK = {"hrhf": {"per_class": 3, "batch": 8, "iterations": 1}}
"""Options of methods whose defaults prepare for longer than a test may take."""
OWN = {"ac", "unknown"}
"""Terms that train rows of a method's own and, on purpose, nothing of the network."""


@pytest.fixture(params=registry.names("methods"))
def plugin(request):
    return registry.load("methods", request.param)


@pytest.fixture(params=registry.names("models"))
def network(request):
    return request.param


def small(network, steps):
    return create(network, steps, {"width": 0.125})


def images(seed=1, batch=BATCH):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *SIZE, generator=generator)


def targets(background="none", seed=2, batch=BATCH):
    """Labels of an extension: new classes here and there, else void or background."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(OLD, OLD + NEW, (batch, *SIZE), generator=generator)
    hidden = torch.rand(labels.shape, generator=generator) < 0.5
    labels[hidden] = VOID if background == "none" else 0
    labels[:, :2] = VOID
    return labels


def configured(plugin):
    return plugin.Config(**QUICK.get(plugin.__module__.rpartition(".")[2], {}))


DECODERS = ("finetune_decoder", "feature_extraction")
"""Their steps have a decoder each, which no other head mode than `static` can hold."""


class Kept:
    """What a run keeps for the steps after the same network, in memory."""

    def __init__(self):
        self.sets = {}

    def load(self, name):
        return self.sets.get(name)

    def save(self, name, tensors):
        self.sets[name] = tensors

    def drop(self, name):
        self.sets.pop(name, None)


def survey(background, store, *, base=False):
    def passes():
        labels = torch.randint(0, OLD, (BATCH, *SIZE)) if base else targets(background)
        yield images(), labels

    def infer(network, x):
        with torch.no_grad():
            return network(x)

    return Survey(passes, infer, store=store)


class Base:
    """Step 0 of a small network by a method, which may keep a memory of it."""

    def __init__(self, plugin, network, background):
        torch.manual_seed(0)
        self.old = small(network, [OLD])
        self.old.train()(images(9, 8))  # statistics of its own
        method = plugin(configured(plugin), StepContext(0, OLD, background, None))
        self.store = Kept()
        look = survey(background, self.store, base=True)
        method.begin(self.old.eval(), None)
        method.ready(method.prepare(look, None))
        self.old.train()
        labels = torch.randint(0, OLD, (BATCH, *SIZE))
        total(method.terms(self.old(images()), labels, None)).backward()
        method.after_backward(self.old)
        method.after_update(self.old)
        self.old.eval().zero_grad(set_to_none=True)
        self.memory = method.finish(self.old, None, look)
        self.old.requires_grad_(False)
        self.teacher = folded(self.old) if plugin.teacher else None


base = cache(Base)
"""A step leaves the one before it alone, so all tests of an extension go on from the same one."""


class Step:
    """The first extension of a small network by a method, as the loop drives it."""

    def __init__(self, plugin, network, background=None):
        self.background = background or plugin.backgrounds[0]
        before = base(plugin, network, self.background)
        self.old, self.teacher = before.old, before.teacher
        self.survey = survey(self.background, before.store)
        context = StepContext(OLD, OLD + NEW, self.background, None, before.memory)
        self.method = plugin(configured(plugin), context)
        torch.manual_seed(1)
        if self.method.init(self.method.config) == "fresh":
            self.model = small(network, [OLD, NEW])
        else:
            self.model = small(network, [OLD])
            self.model.load_state_dict(self.old.state_dict(), strict=False)
            self.method.grow(self.model, NEW)
        self.method.begin(self.model, self.old)
        self.method.ready(self.method.prepare(self.survey, self.teacher))
        self.model.train()

    def terms(self, x=None, labels=None):
        x = images() if x is None else x
        labels = targets(self.background, batch=len(x)) if labels is None else labels
        answer = None
        if self.teacher is not None:
            with torch.no_grad():
                answer = self.teacher(x)
        return self.method.terms(self.model(x), labels, answer)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def gradients(model):
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_config_is_frozen_and_every_field_is_documented(plugin):
    assert is_dataclass(plugin.Config)
    assert plugin.Config.__dataclass_params__.frozen
    for field in fields(plugin.Config):
        assert f"{field.name}:" in plugin.Config.__doc__


def test_background_modes_are_known(plugin):
    assert plugin.backgrounds
    assert set(plugin.backgrounds) <= {"none", "real", "virtual"}


def test_terms_are_named_finite_scalars_in_float32(plugin, network):
    for background in plugin.backgrounds:
        step = Step(plugin, network, background)
        for enabled in (False, True):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                terms = step.terms()
            assert terms
            for name, term in terms.items():
                assert (term.shape, term.dtype) == ((), torch.float32), name
                assert torch.isfinite(term), name


def test_something_learns_and_every_gradient_is_finite(plugin, network):
    step = Step(plugin, network)
    total(step.terms()).backward()
    found = gradients(step.model)
    assert any(g.abs().sum() > 0 for g in found)
    assert all(torch.isfinite(g).all() for g in found)


SINGLE = ("logits", "features", "unknown")
"""Fields of an answer that are one map, not several."""


def corner(output):
    """Of an answer, 2x4 logits and as much of its other maps; and how to make an answer of such."""
    maps = {
        name: [t for t in (value if isinstance(value, tuple) else [value]) if t is not None]
        for name, value in output._asdict().items()
    }
    maps["stages"] = [t[:, :2] for t in maps["stages"]]
    size = output.logits.shape[2:]
    cut = [
        t[:1, :, :2, :4] if t.shape[2:] == size else t[:1, :, :1, :2]
        for tensors in maps.values()
        for t in tensors
    ]

    def answer(*tensors):
        rest = iter(tensors)
        found = {name: tuple(next(rest) for _ in old) for name, old in maps.items()}
        return output._replace(
            **{k: (v[0] if v else None) if k in SINGLE else v for k, v in found.items()}
        )

    return answer, [t.detach().clone() for t in cut]


def test_gradients_of_terms_are_their_slopes(plugin):
    for background in {plugin.backgrounds[0], plugin.backgrounds[-1]}:
        check_slopes(plugin, background)


def check_slopes(plugin, background):
    """By central differences. Terms are float32: each is scaled by its steepest slope."""
    step = Step(plugin, "erfnet", background)
    rest = VOID if step.background == "none" else 0
    old = 1 if plugin.labels == "new-and-old" else rest
    labels = torch.tensor([[[OLD, OLD + 1, rest, old], [old, VOID, OLD, rest]]])
    teacher = None
    if step.teacher is not None:
        answer, maps = corner(step.teacher(images(5)))
        teacher = answer(*maps)
    answer, maps = corner(step.model(images(5)))
    generator = torch.Generator().manual_seed(3)  # away from the teacher, features not negative
    moved = [t.double() + 0.1 + torch.rand(t.shape, generator=generator) for t in maps]
    moved = [t.requires_grad_(True) for t in moved]

    def terms(*tensors):
        method = copy.copy(step.method)  # some count how often they are asked
        vars(method).update({k: list(v) for k, v in vars(method).items() if type(v) is list})
        found = method.terms(answer(*tensors), labels, teacher)
        return {k: v.double() for k, v in found.items() if k not in OWN}

    steepest = {}
    for name, term in terms(*moved).items():
        slopes = torch.autograd.grad(term, moved, retain_graph=True, allow_unused=True)
        steepest[name] = max(float(g.abs().max()) for g in slopes if g is not None)
    assert all(steepest.values()), steepest

    def scaled(*tensors):
        return tuple(term / steepest[name] for name, term in terms(*tensors).items())

    assert torch.autograd.gradcheck(scaled, moved, eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("case", ["all void", "all new", "no new", "one image"])
def test_empty_sets_of_pixels_give_finite_terms_and_gradients(plugin, network, case):
    step = Step(plugin, network)
    x = images(batch=1 if case == "one image" else BATCH)
    labels = targets(step.background, batch=len(x))
    if case == "all void":
        labels[:] = VOID
    if case == "all new":
        labels[:] = OLD
    if case == "no new":
        labels[:] = VOID if step.background == "none" else 0
    step.model.eval()  # a batch of one has no statistics at 1/32 of this size
    total(step.terms(x, labels)).backward()
    assert all(torch.isfinite(g).all() for g in gradients(step.model))


def test_base_step_works_without_a_teacher(plugin, network):
    torch.manual_seed(0)
    model = small(network, [OLD]).train()
    method = plugin(plugin.Config(), StepContext(0, OLD, plugin.backgrounds[0], None))
    method.begin(model, None)
    labels = torch.randint(0, OLD, (BATCH, *SIZE))
    loss = total(method.terms(model(images()), labels, None))
    assert torch.isfinite(loss)
    loss.backward()
    assert any(g.abs().sum() > 0 for g in gradients(model))


def hooks(network):
    """Every hook on a network's modules and weights."""
    found = [d for m in network.modules() for k, d in vars(m).items() if k.endswith("_hooks") and d]
    return found + [p._backward_hooks for p in network.parameters() if p._backward_hooks]


def test_labels_and_the_old_network_are_left_alone(plugin, network):
    step = Step(plugin, network)
    labels, before = targets(step.background), step.old.state_dict()
    kept = labels.clone(), {k: v.clone() for k, v in before.items()}
    asked = None if step.teacher is None else step.teacher(images()).logits
    x, joined = step.method.blend(images(), labels, 0)
    total(step.terms(x, joined)).backward()
    step.method.after_backward(step.model)
    step.method.after_update(step.model)
    step.method.finish(step.model, step.old, step.survey)
    assert torch.equal(labels, kept[0])
    assert all(torch.equal(v, kept[1][k]) for k, v in step.old.state_dict().items())
    for each in (step.old, step.teacher):
        if each is not None:
            assert all(p.grad is None for p in each.parameters())
            assert not each.training
            assert not hooks(each)
    assert not hooks(step.model)
    if asked is not None:  # no dropout, and no statistics that moved
        assert torch.equal(step.teacher(images()).logits, asked)


def test_the_same_beginning_twice_is_the_same(plugin, network):
    """A resume builds the network again before it restores what was saved."""
    one, two = Step(plugin, network), Step(plugin, network)
    for (name, a), b in zip(
        one.model.state_dict().items(), two.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    moving = [[p.requires_grad for p in each.model.parameters()] for each in (one, two)]
    assert moving[0] == moving[1]


def test_its_own_state_survives_a_save(plugin, network):
    step, again = Step(plugin, network), Step(plugin, network)
    for each in range(2):
        step.model.zero_grad()
        total(step.terms(images(20 + each))).backward()
        step.method.after_backward(step.model)
        step.method.after_update(step.model)
    saved = {k: v.clone() for k, v in step.method.state().items()}
    again.model.load_state_dict(step.model.state_dict())
    again.method.restore(saved)
    restored = again.method.state()
    assert restored.keys() == saved.keys()
    assert all(torch.equal(restored[k], v) for k, v in saved.items())
    x = images(30)
    step.model.eval(), again.model.eval()
    with torch.no_grad():
        expected, found = step.terms(x), again.terms(x)
    assert {k: float(v) for k, v in found.items()} == {k: float(v) for k, v in expected.items()}


def test_groups_hold_every_moving_parameter_once(plugin, network):
    step = Step(plugin, network)
    grouped = [id(p) for group in step.method.groups(step.model) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    moving = {id(p) for p in step.model.parameters() if p.requires_grad}
    still = {id(p) for p in step.model.parameters()} - moving
    assert moving <= set(grouped)  # what else is there belongs to the method itself
    assert not still & set(grouped)


def trains_under_bf16(step, iterations):
    from edgeinc.config import TrainSettings
    from edgeinc.training.loop import make_optimizer

    optimizer = make_optimizer(step.method.groups(step.model), TrainSettings(lr=1e-3))
    for iteration in range(iterations):
        optimizer.zero_grad(set_to_none=True)
        x, labels = step.method.blend(
            images(iteration), targets(step.background, iteration), iteration
        )
        with torch.autocast("cpu", torch.bfloat16):
            terms = step.terms(x, labels)
        loss = total(terms)
        assert torch.isfinite(loss), (iteration, terms)
        loss.backward()
        step.method.after_backward(step.model)
        optimizer.step()
        step.method.after_update(step.model)
    assert all(torch.isfinite(p).all() for p in step.model.parameters())


def test_many_iterations_under_bf16_stay_finite(plugin, network):
    trains_under_bf16(Step(plugin, network), 50 if network == "bisenet" else 12)


@pytest.mark.slow
def test_fifty_iterations_under_bf16_stay_finite_whatever_the_network(plugin, network):
    trains_under_bf16(Step(plugin, network), 50)


def test_closing_a_step_leaves_a_network_that_answers(plugin, network):
    step = Step(plugin, network)
    memory = step.method.finish(step.model, step.old, step.survey)
    assert all(isinstance(v, torch.Tensor) and v.ndim < 4 for v in memory.values()), "an image?"
    step.model.eval()
    with torch.no_grad():
        logits = step.model(images()).logits
    assert logits.shape == (BATCH, OLD + NEW, *SIZE)
    assert torch.isfinite(logits).all()


def structure(model):
    """Name and shape of everything that is exported, but for the rows of the classifiers."""
    heads = {id(p) for head in model.heads() for p in head.parameters()}
    named = [*model.named_parameters(), *model.named_buffers()]
    return {n: tuple(t.shape) for n, t in named if id(t) not in heads}


def test_a_later_step_changes_nothing_but_the_classifier(plugin, network):
    """What head modes rest on: all that a later step may add is rows, or a decoder of its own."""
    step = Step(plugin, network)
    step.method.finish(step.model, step.old, step.survey)
    plain, found = structure(small(network, [OLD])), structure(step.model)
    own = {n for n in found if n.startswith("branches.")}
    assert {n: found[n] for n in found.keys() - own} == plain
    assert bool(own) == (plugin.__module__.split(".")[-1] in DECODERS)
