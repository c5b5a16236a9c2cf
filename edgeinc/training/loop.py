"""The one training loop: step 0 and every later step run through `fit`.

It knows batches, a network, perhaps a teacher, and a method's terms; it does not know which method.
Per iteration: read a batch, ask the teacher, compute the terms, look whether they are finite, step
the optimiser, write one line to metrics.jsonl. Once per epoch, and when the user interrupts, the
state is saved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgeinc import host
from edgeinc.config import TrainSettings
from edgeinc.data._batches import Batch, Batches
from edgeinc.errors import Interrupted, TrainingError
from edgeinc.methods import NOTHING_KEPT, Method, Store, Survey
from edgeinc.models import Model, Output
from edgeinc.progress import Progress
from edgeinc.runs import disk_may_fill, write_atomic
from edgeinc.stopping import interruptible
from edgeinc.training.state import State

POLY_POWER = 0.9
PREPARED = "prepared.safetensors"
"""What a method computed before training, while the step is running."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Fit:
    """Everything the loop works with.

    `old`: the previous step's network as it was trained, in eval mode, on its way to the method's
    hooks; `teacher`: the same for inference in the precision of the job. None where there is none
    or the method does not ask. `store`: what the method may keep for steps after the same network.
    """

    model: Model
    teacher: Model | None
    old: Model | None
    method: Method
    batches: Batches
    settings: TrainSettings
    precision: str
    device: torch.device
    iterations: int
    folder: Path
    store: Store = NOTHING_KEPT


def fit(job: Fit, *, progress: Progress) -> float:
    """Train until the last iteration, from the saved state if there is one.

    Returns:
        Seconds of training and of what the method prepared, those before a resume included.

    Raises:
        Interrupted: The user stopped it; the state is saved.
        TrainingError: A term of the loss is not finite; the message names it.
        RunError: The disk is full, or the saved state is damaged.
    """
    settings, model = job.settings, job.model
    optimizer = make_optimizer(job.method.groups(model), settings)
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.precision == "fp16")
    total = job.iterations
    with _process_state(job):
        torch.manual_seed(settings.seed + job.batches.step)
        state = State(job.folder, model, optimizer, scaler, job.method)
        start = perf_counter()
        job.method.ready(_prepared(job, progress))
        done, seconds = state.load()  # last: training has moved on from what was prepared
        start -= seconds
        model.train()
        forward = torch.compile(model) if settings.compile else model
        per_epoch = total // settings.epochs
        stream = job.batches.stream(done * settings.accumulate, total * settings.accumulate)

        with (
            interruptible() as interrupted,
            Metrics(job.folder / "metrics.jsonl", done) as metrics,
            progress.task(f"step {job.batches.step}", total, "it", done) as task,
        ):
            for iteration in range(done, total):
                lr = settings.lr * (1 - iteration / total) ** POLY_POWER
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["lr_scale"]
                values = _iteration(job, forward, stream, optimizer, scaler)
                metrics.write(iteration, lr=lr, **values)
                task.advance(note=f"loss {values['loss']:.3f}")
                finished = iteration + 1
                if interrupted.is_set():
                    state.save(finished, perf_counter() - start)
                    raise Interrupted(
                        f"interrupted after iteration {finished} of {total}; the state is saved",
                        hint="continue with the same command and --resume",
                    )
                if finished % per_epoch == 0 or finished == total:
                    metrics.sync()
                    state.save(finished, perf_counter() - start)
        return perf_counter() - start


def _iteration(
    job: Fit,
    forward: Any,
    stream: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, float]:
    """One optimiser iteration over `accumulate` batches; the mean of each term."""
    start, values = perf_counter(), {"wait_s": 0.0}
    share = 1 / job.settings.accumulate
    optimizer.zero_grad(set_to_none=True)
    for _ in range(job.settings.accumulate):
        batch = next(stream)
        values["wait_s"] += batch.wait_s
        x, labels = job.method.blend(*_on_device(job, batch), batch.iteration)
        with _autocast(job):
            answer = None
            if job.teacher is not None:
                with torch.no_grad():
                    answer = job.teacher(x)
            output = forward(x)
        terms = job.method.terms(output, labels, answer)
        _refuse_not_finite(terms)
        loss = torch.stack(list(terms.values())).sum()
        scaler.scale(loss * share).backward()
        for name, term in {**terms, "loss": loss}.items():
            values[name] = values.get(name, 0.0) + float(term.detach()) * share
    scaler.unscale_(optimizer)
    for name, value in job.method.after_backward(job.model).items():
        values[name] = float(value)
    scaler.step(optimizer)
    scaler.update()
    job.method.after_update(job.model)
    return {**values, "seconds": perf_counter() - start}


def _refuse_not_finite(terms: dict[str, Tensor]) -> None:
    for name, term in terms.items():
        if not bool(torch.isfinite(term)):
            raise TrainingError(
                f"loss term '{name}' became {float(term.detach())}",
                hint="lower --lr, or use --precision fp32; the last checkpoint is intact",
            )


def _autocast(job: Fit) -> Any:
    dtype = DTYPES[job.precision]
    return torch.autocast(job.device.type, dtype, enabled=dtype != torch.float32)


def make_optimizer(
    groups: Sequence[dict[str, Any]], settings: TrainSettings
) -> torch.optim.Optimizer:
    """The optimiser over groups of parameters, see `Method.groups`."""
    groups = [{"lr_scale": 1.0, **group} for group in groups]
    lr, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr, 0.9, weight_decay=decay, nesterov=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr, weight_decay=decay, fused=True)


def survey(job: Fit, progress: Progress) -> Survey:
    """What a method may look at before and after training."""

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in job.batches.stream(0, job.batches.per_epoch):
            yield _on_device(job, batch)

    def infer(network: nn.Module, x: Tensor) -> Output:
        with torch.no_grad(), _autocast(job):
            return network(x)

    return Survey(passes, infer, progress, job.store)


def _prepared(job: Fit, progress: Progress) -> dict[str, Tensor]:
    """What the method prepares, from the file of an interrupted step if there is one."""
    file = job.folder / PREPARED
    if file.exists():
        found = load_file(file)
    else:
        found = job.method.prepare(survey(job, progress), job.teacher)
        if found:
            write_atomic(file, save({k: v.cpu().contiguous() for k, v in found.items()}))
    return {name: tensor.to(job.device) for name, tensor in found.items()}


def _on_device(job: Fit, batch: Batch) -> tuple[Tensor, Tensor]:
    """Normalised images in the precision of the job, and labels."""
    images = torch.from_numpy(batch.images).to(job.device, non_blocking=True)
    labels = torch.from_numpy(batch.labels).to(job.device, non_blocking=True).long()
    # Cast once at the entrance: a float32 image that is pooled and concatenated would keep the
    # whole residual stream behind it in float32.
    return job.model.normalise(images).to(DTYPES[job.precision]), labels


class Metrics:
    """metrics.jsonl: one line per iteration, cut back to the iterations a resume keeps."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True)[:keep] if path.exists() else []
        self._file = path.open("ab")
        self._file.truncate(sum(map(len, lines)))

    def write(self, iteration: int, **values: float) -> None:
        """Append one line."""
        row = {"iteration": iteration, **{k: float(f"{v:.6g}") for k, v in values.items()}}
        self._file.write(json.dumps(row).encode() + b"\n")

    def sync(self) -> None:
        """Make the lines durable; called before the state that counts on them is saved."""
        with disk_may_fill(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def _process_state(job: Fit) -> Iterator[None]:
    """Threads, random generators and determinism as asked, and as they were afterwards."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    devices = [job.device] if job.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            torch.set_num_threads(job.settings.threads or host.cores())
            torch.use_deterministic_algorithms(job.settings.deterministic)
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic)
