"""The one training loop: step 0 and every later step run through `fit`.

It knows batches, a network, perhaps a teacher, and a method's terms; it does not know which method.
Per iteration: read a batch, ask the teacher, compute the terms, look whether they are finite, step
the optimiser, write one line to metrics.jsonl. Once per epoch, and when the user interrupts, the
state is saved.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from edgeinc import host
from edgeinc.config import TrainSettings
from edgeinc.data._batches import Batch, Batches
from edgeinc.errors import Interrupted, TrainingError
from edgeinc.methods import Method
from edgeinc.models import Model
from edgeinc.progress import Progress
from edgeinc.runs import disk_may_fill
from edgeinc.training.state import load_state, save_state

POLY_POWER = 0.9
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Fit:
    """Everything the loop works with.

    `teacher`: the previous step's network for inference, in the precision of the job, or None.
    """

    model: Model
    teacher: Model | None
    method: Method
    batches: Batches
    settings: TrainSettings
    precision: str
    device: torch.device
    iterations: int
    folder: Path


def fit(job: Fit, *, progress: Progress) -> float:
    """Train until the last iteration, from the saved state if there is one.

    Returns:
        Seconds of training, those before a resume included.

    Raises:
        Interrupted: The user stopped it; the state is saved.
        TrainingError: A term of the loss is not finite; the message names it.
        RunError: The disk is full, or the saved state is damaged.
    """
    settings, model = job.settings, job.model
    optimizer = make_optimizer(model, settings)
    scaler = torch.amp.GradScaler(job.device.type, enabled=job.precision == "fp16")
    total = job.iterations
    with _process_state(job):
        torch.manual_seed(settings.seed + job.batches.step)
        done, seconds = load_state(job.folder, model=model, optimizer=optimizer, scaler=scaler)
        model.train()
        forward = torch.compile(model) if settings.compile else model
        per_epoch = total // settings.epochs
        start = perf_counter() - seconds
        stream = job.batches.stream(done * settings.accumulate, total * settings.accumulate)

        def save(iteration: int) -> None:
            save_state(
                job.folder,
                model=model,
                optimizer=optimizer,
                scaler=scaler,
                iteration=iteration,
                seconds=perf_counter() - start,
            )

        with (
            _interruptible() as interrupted,
            Metrics(job.folder / "metrics.jsonl", done) as metrics,
            progress.task(f"step {job.batches.step}", total, "it", done) as task,
        ):
            for iteration in range(done, total):
                lr = settings.lr * (1 - iteration / total) ** POLY_POWER
                for group in optimizer.param_groups:
                    group["lr"] = lr
                values = _iteration(job, forward, stream, optimizer, scaler)
                metrics.write(iteration, lr=lr, **values)
                task.advance(note=f"loss {values['loss']:.3f}")
                finished = iteration + 1
                if interrupted.is_set():
                    save(finished)
                    raise Interrupted(
                        f"interrupted after iteration {finished} of {total}; the state is saved",
                        hint="continue with the same command and --resume",
                    )
                if finished % per_epoch == 0 or finished == total:
                    metrics.sync()
                    save(finished)
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
        images = torch.from_numpy(batch.images).to(job.device, non_blocking=True)
        labels = torch.from_numpy(batch.labels).to(job.device, non_blocking=True).long()
        # Cast once at the entrance: a float32 image that is pooled and concatenated would keep the
        # whole residual stream behind it in float32.
        x = job.model.normalise(images).to(DTYPES[job.precision])
        with _autocast(job):
            answer = None
            if job.teacher is not None:
                with torch.no_grad():
                    answer = job.teacher(x).logits
            output = forward(x)
        terms = job.method.terms(output, labels, answer)
        _refuse_not_finite(terms)
        loss = torch.stack(list(terms.values())).sum()
        scaler.scale(loss * share).backward()
        for name, term in {**terms, "loss": loss}.items():
            values[name] = values.get(name, 0.0) + float(term.detach()) * share
    scaler.step(optimizer)
    scaler.update()
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


def make_optimizer(model: Model, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser over every parameter that may move."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    lr, decay = settings.lr, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, 0.9, weight_decay=decay, nesterov=True)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr, weight_decay=decay, fused=True)


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
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a request that the loop honours after the iteration."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread; whoever started us must stop us
        return
    before = signal.getsignal(signal.SIGINT)

    def request(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)  # the second one stops at once

    signal.signal(signal.SIGINT, request)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


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
