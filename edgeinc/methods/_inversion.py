"""Images from a trained network alone: the inputs that it takes for its classes.

SegInversion of Huang et al., "Half-Real Half-Fake Distillation for Class-Incremental Semantic
Segmentation" (2021, section 3.2), with the regularisers of DeepInversion (Yin et al., CVPR 2020).
Random noise x is moved by Adam until the frozen network sees the wished classes in it:

    y_k  = 1/r_k (log sum_ij exp(r_k s_k,ij) - log hw)              scale-aware aggregation
    L    = CE(softmax y, wished class) + R(x)                       sum of BCE for several classes
    R(x) = tv sum of 4 ||x - x shifted|| + l2 mean_i ||x_i|| + bn sum_l f_l R_l
    R_l  = ||mean_l(x) - running mean_l|| + ||var_l(x) - running var_l||

s are the logits, r_k is drawn for each image and class: a high one asks for one small object, a
low one for a large one. R_l compares what BatchNorm l sees in the batch (biased variance) with
what it saw in training; f is 10 for the first of the network and 1 for the others.

`_watched` adds the gradient of the terms R_l; that also lets a batch pass in parts.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from threading import Event
from time import monotonic
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeinc.errors import Interrupted
from edgeinc.methods import Store
from edgeinc.methods._watched import Watched
from edgeinc.models import Model
from edgeinc.progress import Progress
from edgeinc.schema import Size
from edgeinc.stopping import interruptible

Aggregation = Literal["scale-aware", "average", "maximum"]

SCALES = (0.5, 1.0, 5.0, 10.0, 20.0)
"""What r is drawn from (table 4 of the paper)."""
SETTLING = 0.75
"""Share of the iterations after which images are no longer shifted."""
WARM_UP = 100
"""Iterations in which the learning rate rises, a tenth of all at most; then it falls to 0."""
SAVE_EVERY_S = 30.0
"""Seconds of work that a kill may cost; Ctrl-C costs none."""
_GO_ON = "the same command without --overwrite goes on from there"


@dataclass(frozen=True)
class Recipe:
    """How images are made; see `hrhf.HRHF.Config`, whose fields of these names fill it."""

    per_class: int
    iterations: int
    batch: int
    part: int
    lr: float
    classes_per_image: int
    aggregation: Aggregation
    r: float
    tv: float
    l2: float
    bn: float
    jitter: int
    flip: bool
    clip: bool
    stop_loss: float

    @classmethod
    def of(cls, config: Any) -> Recipe:
        """The fields of a larger dataclass that are a recipe's."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls)})

    def key(self, size: Size, seed: int, dtype: torch.dtype) -> str:
        """Twelve hexadecimal digits that name everything the images depend on but the network."""
        facts = {**asdict(self), "size": list(size), "seed": seed, "dtype": str(dtype)}
        del facts["part"]  # how much passes at once changes rounding, not what is made
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def batches(self, classes: int) -> int:
        """Full batches that hold `per_class` images of each class."""
        return -(-self.per_class * classes // self.batch)


# ---------------------------------------------------------------------------------- terms


def aggregate(logits: Tensor, r: Tensor, kind: Aggregation) -> Tensor:
    """Logits (B, C, h, w) to one score for each image and class, (B, C) float32.

    Args:
        logits: Of any float type.
        r: (B, C), positive; only `scale-aware` asks for it.
        kind: `average` and `maximum` are its limits for r towards 0 and infinity.
    """
    flat = logits.float().flatten(2)
    if kind == "average":
        return flat.mean(2)
    if kind == "maximum":
        return flat.amax(2)
    # logsumexp takes the largest value out first: r = 20 on logits of 50 would overflow.
    return (torch.logsumexp(flat * r[:, :, None], 2) - math.log(flat.shape[2])) / r


def classification(scores: Tensor, wished: Tensor, first: int) -> Tensor:
    """How far each image is from showing its classes, (B,).

    Args:
        scores: (B, C) of `aggregate`.
        wished: (B, k) ids; k = 1 gives cross-entropy over all classes, more the sum of binary
            cross-entropies over the classes from `first` on.
        first: 1 where id 0 is a background, which several objects neither need nor exclude.
    """
    if wished.shape[1] == 1:
        return F.cross_entropy(scores, wished[:, 0], reduction="none")
    target = torch.zeros_like(scores).scatter_(1, wished, 1.0)[:, first:]
    return F.binary_cross_entropy_with_logits(scores[:, first:], target, reduction="none").sum(1)


def total_variation(x: Tensor) -> Tensor:
    """Sum of the norms of the differences to the right, lower and both diagonal neighbours."""
    differences = (
        x[:, :, :, 1:] - x[:, :, :, :-1],
        x[:, :, 1:] - x[:, :, :-1],
        x[:, :, 1:, 1:] - x[:, :, :-1, :-1],
        x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(d) for d in differences]).sum()


def mean_norm(x: Tensor) -> Tensor:
    """Mean over images of the norm of an image."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).mean()


# ---------------------------------------------------------------------------------- images


def invert(
    network: Model,
    classes: Sequence[int],
    recipe: Recipe,
    *,
    size: Size,
    seed: int,
    dtype: torch.dtype,
    store: Store,
    progress: Progress,
) -> list[dict[str, Tensor]]:
    """Make images of classes, or take those that the store has.

    Args:
        network: Trained, on the device to compute on; neither its weights nor its mode change.
        classes: Ids to show, as many images of each, in random order; the last batch is filled
            up with further ones.
        recipe: How.
        size: (height, width).
        seed: Decides noise, r, order and jitter; an image depends on nothing else.
        dtype: What the network computes in.
        store: Keeps finished batches and the state of a running one.
        progress: Told about every iteration.

    Returns:
        Batches: `images` (B, 3, H, W) float16 normalised, `wished` (B, k) int64, `r` (B, C),
        `share` (B, k), the part of the pixels where the network sees each wished class, `bn`
        (2,), the BatchNorm terms of the noise and of the images; `seconds` (1,). On the CPU.

    Raises:
        Interrupted: Ctrl-C; finished batches and the state of the running one are stored.
    """
    key, total = recipe.key(size, seed, dtype), recipe.batches(len(classes))
    names = [f"{key}/batch-{index:03d}" for index in range(total)]
    made = [store.load(name) for name in names]
    missing = [i for i, found in enumerate(made) if found is None]
    if missing:
        watched = Watched(network, dtype, recipe.bn)
        plans = _plans(classes, recipe, total, seed)
        done = (total - len(missing)) * recipe.iterations
        done += sum(_iterations_of(store.load(f"{names[i]}.part")) for i in missing)
        with (
            interruptible() as asked,
            progress.task("invert", total * recipe.iterations, "it", done) as task,
        ):
            for index in missing:
                plan = plans[index]
                batch = _Batch(network, watched, recipe, plan, min(classes), size, (seed, index))
                made[index] = batch.make(store, names[index], task, asked)
        if asked.is_set():
            raise Interrupted("interrupted; all images are made and saved", hint=_GO_ON)
    return [batch for batch in made if batch is not None]


def _plans(classes: Sequence[int], recipe: Recipe, total: int, seed: int) -> list[list[list[int]]]:
    """The wished classes of every image of every batch: the first is balanced over all images."""
    rng = np.random.default_rng([seed, 1])
    first = [classes[i % len(classes)] for i in range(total * recipe.batch)]
    order = rng.permutation(len(first))
    more = min(recipe.classes_per_image, len(classes)) - 1
    wished = []
    for i in order:
        others = [c for c in classes if c != first[i]]
        wished.append([first[i], *(int(c) for c in rng.choice(others, more, replace=False))])
    return [wished[b * recipe.batch : (b + 1) * recipe.batch] for b in range(total)]


class _Batch:
    """One batch on its way from noise to images."""

    def __init__(
        self,
        network: Model,
        watched: Watched,
        recipe: Recipe,
        wished: list[list[int]],
        first: int,
        size: Size,
        seeds: tuple[int, int],
    ) -> None:
        self.network, self.watched, self.recipe, self.seeds = network, watched, recipe, seeds
        device = next(network.parameters()).device
        rng = np.random.default_rng([*seeds, 2])
        n, c = len(wished), sum(network.steps)
        self.wished = torch.tensor(wished, device=device)
        drawn = rng.choice(SCALES, (n, c)) if not recipe.r else np.full((n, c), recipe.r)
        self.r = torch.tensor(drawn, dtype=torch.float32, device=device)
        self.first = first
        noise = rng.standard_normal((n, 3, *size), np.float32)
        self.x = torch.from_numpy(noise).to(device).requires_grad_(True)
        mean, std = (torch.tensor(v, device=device) for v in (network.mean, network.std))
        self.low, self.high = ((v - mean) / std for v in (0, 255))
        self.optimizer = torch.optim.Adam([self.x], recipe.lr, betas=(0.5, 0.9))
        self.iteration, self.seconds = 0, 0.0
        self.bn = torch.zeros(2)

    def make(self, store: Store, name: str, task: Any, asked: Event) -> dict[str, Tensor]:
        """Run to the end, from the saved state if there is one; store the result.

        Raises:
            Interrupted: It was asked for; the state is stored.
        """
        total = self.recipe.iterations
        self._restore(store.load(f"{name}.part"))
        start = saved = monotonic()
        before = self.seconds
        while self.iteration < total:
            loss = self.step()
            self.seconds = before + monotonic() - start
            enough = loss < self.recipe.stop_loss
            moved = total - self.iteration + 1 if enough else 1
            task.advance(moved, note=f"loss {loss:.3f}, BN {float(self.bn[1]):.2f}")
            if enough:
                break
            if asked.is_set():
                store.save(f"{name}.part", self._state())
                raise Interrupted(
                    f"interrupted after iteration {self.iteration} of {total} of images "
                    f"{name.rpartition('/')[2]}; the images made so far and this state are saved",
                    hint=_GO_ON,
                )
            if monotonic() - saved > SAVE_EVERY_S:
                store.save(f"{name}.part", self._state())
                saved = monotonic()
        result = self._result()
        store.save(name, result)
        store.drop(f"{name}.part")
        return result

    def step(self) -> float:
        """One iteration; returns the mean classification loss before it."""
        recipe, watched = self.recipe, self.watched
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * _schedule(self.iteration, recipe.iterations)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [slice(None)]
        if 0 < recipe.part < len(self.x):
            parts = [slice(a, a + recipe.part) for a in range(0, len(self.x), recipe.part)]
            with torch.no_grad():
                watched.collect([self._seen(self.x[part]) for part in parts])
        else:
            for norm in watched.norms:
                norm.given = False
        loss = 0.0
        for part in parts:
            scores = aggregate(
                watched.logits(self._seen(self.x[part])), self.r[part], recipe.aggregation
            )
            away = classification(scores, self.wished[part], self.first).sum() / len(self.x)
            away.backward()
            loss += float(away.detach())
        prior = recipe.tv * total_variation(self.x) + recipe.l2 * mean_norm(self.x)
        prior.backward()
        self.bn[1] = watched.term().cpu()
        if self.iteration == 0:
            self.bn[0] = self.bn[1]
        self.optimizer.step()
        if recipe.clip:
            with torch.no_grad():
                low, high = (v.view(1, 3, 1, 1) for v in (self.low, self.high))
                self.x.copy_(torch.minimum(torch.maximum(self.x, low), high))
        self.iteration += 1
        return loss

    def _seen(self, x: Tensor) -> Tensor:
        """The images as this iteration shows them: shifted round the edges, perhaps mirrored.

        Near the end nothing shifts any more: shifted edges keep the statistics from settling.
        """
        rng = np.random.default_rng([*self.seeds, 3, self.iteration])
        settling = self.iteration >= SETTLING * self.recipe.iterations
        jitter = 0 if settling else self.recipe.jitter
        down, right = (
            int(rng.integers(-limit, limit + 1))
            for limit in (min(jitter, side // 8) for side in x.shape[2:])
        )
        if down or right:
            x = torch.roll(x, (down, right), (2, 3))
        return x.flip(3) if self.recipe.flip and rng.random() < 0.5 else x

    def _result(self) -> dict[str, Tensor]:
        images = self.x.detach().half()
        parts = list(images.split(self.recipe.part or len(images)))
        self.watched.collect(parts)
        self.bn[1] = self.watched.term().cpu()  # as they are, not shifted
        seen = [answer(self.network, part).flatten(1) for part in images.split(8)]
        share = (torch.cat(seen)[:, None, :] == self.wished[:, :, None]).float().mean(2)
        return {
            "images": images.cpu(),
            "wished": self.wished.cpu(),
            "r": self.r.cpu(),
            "share": share.cpu(),
            "bn": self.bn,
            "seconds": torch.tensor([self.seconds]),
        }

    def _state(self) -> dict[str, Tensor]:
        slots = self.optimizer.state_dict()["state"][0]
        facts = torch.tensor([self.iteration, self.seconds, float(self.bn[0])], dtype=torch.float64)
        moments = {k: slots[k].detach().cpu() for k in ("exp_avg", "exp_avg_sq", "step")}
        return {"x": self.x.detach().cpu(), "facts": facts, **moments}

    def _restore(self, state: dict[str, Tensor] | None) -> None:
        if state is None:
            return
        self.iteration = _iterations_of(state)
        _, self.seconds, self.bn[0] = state.pop("facts").tolist()
        with torch.no_grad():
            self.x.copy_(state.pop("x"))
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": {0: state}})


def _iterations_of(state: dict[str, Tensor] | None) -> int:
    return 0 if state is None else int(state["facts"][0])


def answer(network: Model, images: Tensor) -> Tensor:
    """The class a network sees in every pixel of normalised images, (B, H, W) int64."""
    with torch.no_grad():
        x = images.to(next(network.parameters()).device, torch.float32)
        seen: Tensor = network(x).logits.argmax(1)
    return seen


def _schedule(iteration: int, total: int) -> float:
    """Rises over the warm-up, then falls to 0 as a cosine."""
    warm = min(WARM_UP, total // 10)
    if iteration < warm:
        return (iteration + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / max(1, total - warm)))
