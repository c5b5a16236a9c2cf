"""Images from a network on a CPU: edgeinc against a plain loop, interleaved in one process.

    python benchmarks/inversion_speed.py

Plain is what one writes first: fp32, frozen weights, a hook on every BatchNorm that puts mean and
variance of its input into the graph, Adam. Both make the same batch with the same terms from an
untrained network, which costs what a trained one does. Each turn runs one iteration of both;
medians, their ratio and the images a second at `--iterations` are printed and written to a CSV.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgeinc import config, host
from edgeinc.methods._inversion import SCALES, Recipe, _Batch
from edgeinc.methods._watched import FIRST, Watched
from edgeinc.methods.hrhf import HRHF
from edgeinc.models import Model, create
from edgeinc.schema import Size

LIMIT = 1.5
WARM_TURNS = 2


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["erfnet", "bisenet"])
    parser.add_argument("--size", default="192x256")
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=HRHF.Config().iterations)
    default = Path(__file__).parent / "results" / "inversion_speed.csv"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    threads = options.threads or host.cores()
    torch.set_num_threads(threads)
    for name in options.models:
        torch.manual_seed(0)
        network = create(name, [options.classes], {"width": options.width}).eval()
        network.requires_grad_(False)
        write(options, name, threads, measure(network, options))


def measure(network: Model, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per iteration of every turn."""
    size = config.parse_size(options.size)
    recipe = Recipe.of(HRHF.Config(batch=options.batch))
    ways = {"plain": plain(network, recipe, size), "edgeinc": ours(network, recipe, size)}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.turns + WARM_TURNS):
        for name, iterate in ways.items():
            start = perf_counter()
            iterate()
            if turn >= WARM_TURNS:  # the first turns choose kernels
                times[name].append(perf_counter() - start)
    return times


def wished(network: Model, batch: int) -> list[list[int]]:
    """One class for each image."""
    return [[i % sum(network.steps)] for i in range(batch)]


def ours(network: Model, recipe: Recipe, size: Size) -> Callable[[], object]:
    """One iteration as `invert` runs it."""
    dtype = torch.bfloat16 if host.computes_bf16() else torch.float32
    watched = Watched(network, dtype, recipe.bn)
    targets = wished(network, recipe.batch)
    batch = _Batch(network, watched, recipe, targets, 0, size, (0, 0))
    return batch.step


def plain(network: Model, recipe: Recipe, size: Size) -> Callable[[], object]:
    """One iteration as one writes it first."""
    terms: list[Tensor] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        mean = x.mean((0, 2, 3))
        var = x.permute(1, 0, 2, 3).reshape(x.shape[1], -1).var(1, unbiased=False)
        terms.append((mean - norm.running_mean).norm() + (var - norm.running_var).norm())

    # A copy of its own: the hooks must not be met by the other loop.
    network = create(*_described(network)).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(look)
    rng = np.random.default_rng(0)
    targets = torch.tensor(wished(network, recipe.batch))[:, 0]
    r = torch.tensor(rng.choice(SCALES, (recipe.batch, sum(network.steps))), dtype=torch.float32)
    x = torch.randn(recipe.batch, 3, *size, requires_grad=True)
    optimizer = torch.optim.Adam([x], recipe.lr, betas=(0.5, 0.9))
    low, high = ((v - torch.tensor(network.mean)) / torch.tensor(network.std) for v in (0, 255))

    def iterate() -> None:
        terms.clear()
        seen = torch.roll(x, tuple(rng.integers(-24, 25, 2).tolist()), (2, 3))
        if rng.random() < 0.5:
            seen = torch.flip(seen, (3,))
        logits = network(seen).logits.flatten(2)
        scores = (torch.logsumexp(r[:, :, None] * logits, 2) - np.log(logits.shape[2])) / r
        differences = (
            x[:, :, :, 1:] - x[:, :, :, :-1],
            x[:, :, 1:] - x[:, :, :-1],
            x[:, :, 1:, 1:] - x[:, :, :-1, :-1],
            x[:, :, 1:, :-1] - x[:, :, :-1, 1:],
        )
        variation = torch.stack([d.norm() for d in differences]).sum()
        loss = F.cross_entropy(scores, targets)
        loss = loss + recipe.bn * (FIRST * terms[0] + torch.stack(terms[1:]).sum())
        loss = loss + recipe.tv * variation + recipe.l2 * x.flatten(1).norm(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for channel in range(3):
                x[:, channel].clamp_(float(low[channel]), float(high[channel]))

    return iterate


def _described(network: Model) -> tuple[str, list[int], dict[str, float]]:
    """What builds another network like it."""
    name = type(network).__module__.rpartition(".")[2]
    channels = network.heads()[0].channels
    return name, list(network.steps), {"width": channels / (16 if name == "erfnet" else 256)}


def write(
    options: argparse.Namespace, model: str, threads: int, times: dict[str, list[float]]
) -> None:
    """One line per network and size; earlier lines of other settings are kept."""
    facts = host.host()
    slow, fast = median(times["plain"]), median(times["edgeinc"])
    ratios = sorted(p / o for p, o in zip(times["plain"], times["edgeinc"], strict=True))
    line = {
        "model": model,
        "width": options.width,
        "size": options.size,
        "batch": options.batch,
        "threads": threads,
        "turns": options.turns,
        "plain_ms": f"{1000 * slow:.0f}",
        "edgeinc_ms": f"{1000 * fast:.0f}",
        "ratio": f"{median(ratios):.2f}",
        "ratio_low": f"{ratios[len(ratios) // 10]:.2f}",
        "ratio_high": f"{ratios[-1 - len(ratios) // 10]:.2f}",
        "limit": LIMIT,
        "iterations": options.iterations,
        "plain_images_per_s": f"{options.batch / slow / options.iterations:.5f}",
        "edgeinc_images_per_s": f"{options.batch / fast / options.iterations:.5f}",
        "hardware": f"{facts.cpu}, {facts.cores} cores",
        "versions": " ".join(f"{k}={v}" for k, v in facts.versions.items()),
    }
    rows = []
    if options.out.exists():
        with options.out.open(encoding="utf-8", newline="") as file:
            same = ("model", "width", "size", "batch", "threads", "hardware")
            rows = [r for r in csv.DictReader(file) if any(r[k] != str(line[k]) for k in same)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, line])
    for key, value in line.items():
        sys.stdout.write(f"{key:>20}  {value}\n")


if __name__ == "__main__":
    main()
