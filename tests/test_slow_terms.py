"""The terms that every method has of single pixels, against plain loops in float64.

One reference per formula, written from the docstrings' equations; terms that compare whole maps
(pooled distillation, prototypes, the halves of DKD) have theirs beside the method's other tests.
"""

import math

import pytest
import torch

from edgeinc import registry
from edgeinc.methods import StepContext
from edgeinc.models import Output, create
from edgeinc.schema import VOID

OLD, CLASSES = 3, 5
WEIGHTS = [0.5, 2.0, 1.0, 4.0, 0.25]
THRESHOLDS = [0.9, 0.5, 0.8]
"""Of PLOP's entropies."""
OF_MAPS = {
    "dkd": {"ac", "dkd+", "dkd-"},
    "ilt": {"features"},
    "plop": {"kd"},
    "rcil": {"kd"},
    "sdr": {"matching", "attraction", "repulsion", "sparsity"},
    "star": {"pkd", "cont"},
}
"""Terms that are tested elsewhere."""

# ------------------------------------------------------------------------------- arithmetic


def log_sum(values):
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))


def log_p(z):
    return [v - log_sum(z) for v in z]


def p(z):
    return [math.exp(v) for v in log_p(z)]


def sigmoid(v):
    return 1 / (1 + math.exp(-v))


def bce(v, target, positive=1.0):
    return -positive * target * math.log(sigmoid(v)) - (1 - target) * math.log(1 - sigmoid(v))


def crossed(q, log):
    return -sum(a * b for a, b in zip(q, log, strict=False))


def mean(pairs):
    """Of (weight, loss); what is None does not count, and nothing at all is 0."""
    pairs = [pair for pair in pairs if pair]
    return sum(w * v for w, v in pairs) / sum(w for w, _ in pairs) if pairs else 0.0


def is_new(y):
    return OLD <= y < CLASSES


# ------------------------------------- one pixel: logits z, the teacher's t, label y, unknown u


def ce(z, t, y, u):
    return None if y == VOID else (WEIGHTS[y], -log_p(z)[y])


def ce_of_new(z, t, y, u):
    return (WEIGHTS[y], -log_p(z)[y]) if is_new(y) else None


def ce_among_new(z, t, y, u):
    return (WEIGHTS[y], -log_p(z[OLD:])[y - OLD]) if is_new(y) else None


def ce_folded(z, t, y, u):
    if y == VOID:
        return None
    if is_new(y):
        return WEIGHTS[y], -log_p(z)[y]
    return WEIGHTS[0], -math.log(sum(p(z)[:OLD]))


def ce_merged(z, t, y, u):
    """HRHF with a background."""
    return None if y == VOID else (1, -log_p(z)[y if is_new(y) else t.index(max(t))])


def ce_merged_void_too(z, t, y, u):
    return 1, -log_p(z)[y if is_new(y) else t.index(max(t))]


def kd_among_old(z, t, y, u):
    return 1, crossed(p(t), log_p(z[:OLD]))


def kd_joint(z, t, y, u):
    return 1, crossed(p(t), log_p(z))


def kd_folded(z, t, y, u):
    q = p(z)
    return 1, crossed(p(t), [math.log(v) for v in [q[0] + sum(q[OLD:]), *q[1:OLD]]])


def kd_weighted(z, t, y, u):
    """CIL: the weight is no part of what is divided by."""
    bits = -sum(v * math.log2(v) for v in p(t))
    return (1, crossed(p(t), log_p(z)) * (1 + bits)) if not is_new(y) else None


def completed(void):
    """Joint training's cross-entropy, where the teacher's belief stands for a missing label."""

    def loss(z, t, y, u):
        if y == VOID and not void:
            return None
        if is_new(y):
            return WEIGHTS[y], -log_p(z)[y]
        weights = [w * q for w, q in zip(WEIGHTS, p(t), strict=False)]
        return sum(weights), crossed(weights, log_p(z)) / sum(weights)

    return loss


def every_class(z, t, y, u):
    return None if y == VOID else (WEIGHTS[y], sum(bce(v, c == y) for c, v in enumerate(z)))


def old_sigmoids(z, t, y, u):
    return 1, sum(bce(z[c], sigmoid(v)) for c, v in enumerate(t))


def old_sigmoids_of_a_softmax(z, t, y, u):
    """DKD after a softmax without a background: an old class against the mean of the others."""
    total = 0.0
    for c, v in enumerate(t):
        others = (sum(t) - v) / (OLD - 1)
        total += bce(z[c], 0 if is_new(y) else sigmoid(v - others))
    return 1, total


def old_sigmoids_above_background(z, t, y, u):
    return 1, sum(bce(z[c], sigmoid(t[c] - t[0])) for c in range(1, OLD))


def with_unknown(z, t, y, u):
    """SSUL: background is unknown, or the old class that the teacher is sure of."""
    if y == VOID:
        return None
    best = t.index(max(t))
    if y == 0 and best > 0 and sigmoid(t[best]) >= 0.7:
        y = best
    own = CLASSES if y == 0 else y
    return 1, sum(bce(v, c == own) for c, v in enumerate([*z, u]))


def without_unknown(z, t, y, u):
    """Its auxiliary outputs, which have the same pseudo-labels and no such row."""
    if y == VOID:
        return None
    best = t.index(max(t))
    if y == 0 and best > 0 and sigmoid(t[best]) >= 0.7:
        y = best
    return 1, sum(bce(v, c == y) for c, v in enumerate(z))


def new_sigmoids(positive, void):
    def loss(z, t, y, u):
        if y == VOID and not void:
            return None
        return 1, sum(bce(z[c], c == y, positive) for c in range(OLD, CLASSES))

    return loss


def only(where, loss):
    return lambda z, t, y, u: loss(z, t, y, u) if where(y) else None


def times(factor, loss):
    def product(z, t, y, u):
        weight, value = loss(z, t, y, u)
        return weight, factor * value

    return product


def references(name, background):
    """{term: loss of a pixel}, at the factors that the methods' options have by default."""
    bare = background == "none"
    cil = {"ce": ce_of_new, "kd": kd_weighted}
    mib = {"ce": ce_folded, "kd": times(10 / OLD, kd_folded)}
    hrhf = (
        {"ce": ce_merged_void_too, "kd": only(lambda y: not is_new(y), kd_joint)}
        if bare
        else {"ce": ce_merged, "kd": kd_folded}
    )
    sigmoids = old_sigmoids_of_a_softmax if bare else old_sigmoids_above_background
    return {
        "cil": cil,
        "ejt": {"ce": completed(bare)},
        "dkd": {"bce": new_sigmoids(1, bare), "kd": times(5, sigmoids)},
        "ewf": cil if bare else mib,
        "feature_extraction": {"ce": ce_among_new},
        "finetune_decoder": {"ce": ce_among_new},
        "hrhf": hrhf,
        "ilt": {"ce": ce, "kd": times(100 / OLD, kd_among_old)},
        "lwf": {"ce": ce, "kd": times(100 / OLD, kd_among_old)},
        "lwf_mc": {"bce": every_class, "kd": times(10, old_sigmoids)},
        "lwof": {"ce": ce_among_new, "kd": kd_among_old},
        "mib": mib,
        "michieli": {"ce": ce, "kd": only(lambda y: y < OLD, kd_joint)},
        "sdr": {"ce": ce_folded, "kd": times(100 / OLD, kd_folded)},
        "ssul": {"bce": with_unknown, "aux": without_unknown},
        "star": {"bce": new_sigmoids(4, bare)},
    }.get(name, {"ce": ce})


def pseudo_ce(z, t, y):
    """PLOP and RCIL, without class weights: one image's (sum of losses, pixels not void)."""
    total, hidden, taken, valid = 0.0, 0, 0, 0
    for zi, ti, label in zip(z, t, y, strict=True):
        if label == VOID:
            continue
        valid += 1
        if not is_new(label):
            hidden += 1
            entropy = crossed(p(ti), log_p(ti)) / math.log(OLD)
            label = ti.index(max(ti))
            if entropy >= THRESHOLDS[label]:
                continue
            taken += 1
        total -= log_p(zi)[label]
    return total * (taken / hidden if hidden else 1.0), valid


# ---------------------------------------------------------------------------------- the tests


def rows(tensor):
    """(B, C, H, W) -> B lists of pixels."""
    return tensor.double().permute(0, 2, 3, 1).flatten(1, 2).tolist()


def case(kind, background, labels):
    """Answers of student and teacher, and labels, of a batch as `kind` says."""
    generator = torch.Generator().manual_seed(11)
    batch, size = 1 if kind == "one image" else 2, (4, 6)

    def maps(classes, scale=2.0):
        return torch.randn(batch, classes, *size, generator=generator) * scale

    y = torch.randint(OLD, CLASSES, (batch, *size), generator=generator)
    if kind == "an absent class":
        y[:] = OLD
    rest = VOID if background == "none" else 0
    hidden = torch.rand(y.shape, generator=generator) < 0.6
    y[hidden if kind != "no new pixel" else torch.ones_like(hidden)] = rest
    if labels == "new-and-old":
        old = torch.randint(0, OLD, y.shape, generator=generator)
        y = torch.where(y == rest, old, y)
    y[:, 0, :4] = VOID
    if kind == "void alone":
        y[:] = VOID
    features = torch.rand(batch, 8, 2, 3, generator=generator)
    stages = tuple(torch.rand(batch, 3, 2, 3, generator=generator) for _ in range(3))
    student = Output(maps(CLASSES), (maps(CLASSES),), features, stages, (), maps(1))
    teacher = maps(OLD)
    if kind == "an absent class":
        teacher[:, 1] = -9.0  # nor does the teacher find its class 1 anywhere
    return student, Output(teacher, (), features + 0.1, stages), y


KINDS = ("two images", "one image", "an absent class", "no new pixel", "void alone")


def pixelwise(name, background, student, teacher, y):
    """{term: value} by the references of `references`."""
    wanted = references(name, background)
    wanted.setdefault("aux", next(iter(wanted.values())))
    found = {}
    for term, loss in wanted.items():
        logits = student.aux[0] if term == "aux" else student.logits
        parts = (logits, teacher.logits, student.unknown)
        z, t, u = ([q for image in rows(part) for q in image] for part in parts)
        pixels = zip(z, t, y.flatten().tolist(), (v for (v,) in u), strict=True)
        found[term] = mean([loss(*pixel) for pixel in pixels])
    return found


def imagewise(student, teacher, y):
    """{term: value} of PLOP and RCIL."""
    found = {}
    for term, logits in (("ce", student.logits), ("aux", student.aux[0])):
        images = zip(rows(logits), rows(teacher.logits), y.flatten(1).tolist(), strict=True)
        sums, valid = zip(*(pseudo_ce(*image) for image in images), strict=True)
        found[term] = sum(sums) / max(1, sum(valid))
    return found


@pytest.mark.parametrize(
    "kind", ["two images", "one image", "an absent class", "no new pixel", "void alone"]
)
@pytest.mark.parametrize("name", registry.names("methods"))
def test_terms_of_pixels_are_those_of_plain_loops(name, kind):
    plugin = registry.load("methods", name)
    old = create("erfnet", [OLD], {"width": 0.125})
    for background in plugin.backgrounds:
        student, teacher, y = case(kind, background, plugin.labels)
        weights = torch.tensor(WEIGHTS)
        method = plugin(plugin.Config(), StepContext(OLD, CLASSES, background, weights))
        method.begin(create("erfnet", [OLD, CLASSES - OLD], {"width": 0.125}), old)
        expected = pixelwise(name, background, student, teacher, y)
        if name in ("plop", "rcil"):
            method.ready({"thresholds": torch.tensor(THRESHOLDS)})
            expected = imagewise(student, teacher, y)
        if name == "ejt":
            method.ready({})
        terms = method.terms(student, y, teacher if plugin.teacher else None)
        assert terms.keys() == expected.keys() | OF_MAPS.get(name, set())
        found = {term: float(terms[term].detach()) for term in expected}
        assert found == pytest.approx(expected, rel=2e-5), background
