"""How fast is what `edgeinc export` writes, against what one would run without it?

    python benchmarks/deploy_speed.py RUN [RUN ...] --data-root DIR
    python benchmarks/deploy_speed.py RUN --sizes 96x128 --duration 1      # a look

Every RUN is a trained one (ERFNet, BiSeNet) on CamVid. For every size its newest step is exported
in each form, and all variants of a size take turns in one process: what they have in common is the
machine's mood. Exported files are kept in `--files`, so the same command measures again without
exporting again, on a machine that has grown quiet. A frame is a uint8 image of the network's size
in, class ids in memory out, whoever normalises and decides. A file that misses its gate on mIoU is
not timed and its row says so. A size that a network cannot take is rounded up to its stride.

`plain` is what most people start from: the network in eval mode, `torch.onnx.export` as it is, the
image normalised and the classes decided in numpy. `matrix_percent` compares the operations of the
network with what one large fp32 matrix product reaches on this machine.
"""

from __future__ import annotations

import argparse
import copy
import csv
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

import edgeinc
from edgeinc import config, host
from edgeinc.cli._ui import Ui
from edgeinc.data import open_dataset
from edgeinc.data._augment import resize_image
from edgeinc.deploy._timing import interleave, statistics, warm_up
from edgeinc.evaluation import predict_native
from edgeinc.registry import load
from edgeinc.runtimes import Session, open_artifact
from edgeinc.runtimes._card import card_path, read_card
from edgeinc.runtimes.torch import TorchSession
from edgeinc.schema import ArtifactCard, Size

HERE = Path(__file__).parent
Frame = Callable[[np.ndarray], object]
FORMS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp32 dynamic": {"head": "dynamic"},
    "fp32 capacity 32": {"head": "capacity", "capacity": 32},
    "int8": {"precision": "int8"},
    "int8 for openvino": {"precision": "int8", "target": "openvino"},
}
ON = {
    "fp32": ("onnxruntime", "openvino", "openvino_bf16"),
    "int8": ("onnxruntime",),
    "int8 for openvino": ("openvino", "openvino_bf16"),
}
"""Runtimes of each form; else onnxruntime."""


def main() -> None:
    """Time every run at every size and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-root", help="folder that holds camvid/")
    parser.add_argument("--sizes", default="360x480;512x1024")
    parser.add_argument("--duration", type=float, default=10.0, help="seconds a variant")
    parser.add_argument("--limit", type=int, default=100, help="labelled images of the gate")
    parser.add_argument("--threads", type=int, default=host.cores())
    parser.add_argument("--files", type=Path, default=HERE / "runs" / "deploy_speed")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "deploy_speed.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matrix_rate()
    lines = []
    for run in options.runs:
        for size in map(config.parse_size, options.sizes.split(";")):
            lines += measured(run, fitting(run, size), rate, options)
            write(lines, options.out)
    sys.stdout.write(f"wrote {options.out}\n")


def fitting(run: Path, size: Size) -> Size:
    """The smallest size that the run's network takes and that is no smaller."""
    stride = load("models", edgeinc.open_run(run).info.model).stride
    return -(-size[0] // stride) * stride, -(-size[1] // stride) * stride


def measured(
    run: Path, size: Size, rate: float, options: argparse.Namespace
) -> Iterator[dict[str, object]]:
    """One line for every variant of a run at a size."""
    ui, step = Ui(), edgeinc.open_run(run).step()
    dataset = open_dataset("camvid", data_root=options.data_root)
    images = [dataset.image(i) for i in dataset.ids("val")[:16]]
    ready = [resize_image(image, size) for image in images]
    common = {
        "model": edgeinc.open_run(run).info.model,
        "classes": len(step.classes),
        "size": f"{size[0]}x{size[1]}",
        "threads": options.threads,
        "matrix_gflops": f"{rate / 1e9:.0f}",
    }
    folder = options.files / f"{common['model']}-{step.weights_sha256[:12]}-{common['size']}"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        network = TorchSession(
            edgeinc.open_run(run).folder(step.index),
            device="cpu",
            threads=options.threads,
            size=size,
        )
        frames: dict[str, Frame] = dict(plain(network, folder, options.threads))
        sessions, notes = {}, {}
        for name, form in FORMS.items():
            path = folder / f"{name.replace(' ', '-')}.onnx"
            card = exported(run, path, form, size, options, ui)
            parity = card.parity
            assert parity is not None
            for runtime in ON.get(name, ("onnxruntime",)):
                row = f"edgeinc {name}, {runtime}"
                notes[row] = parity
                if parity.passed:
                    session = open_artifact(path, runtime=runtime, threads=options.threads)
                    sessions[row] = stack.enter_context(session)
                    frames[row] = lambda image, session=session: session.run(image[None])
        asked = [lambda i, f=frame: f(ready[i % len(ready)]) for frame in frames.values()]
        times = timed(asked, options.duration, ui)
        p50 = {row: statistics(t).p50_ms for row, t in zip(frames, times, strict=True)}
        fastest = min(sessions, key=lambda row: p50[row])
        operations = flops(network, size)
        for row in [*frames, *(r for r in notes if r not in frames)]:
            line = {**common, "row": row}
            if row in p50:
                line |= {
                    "p50_ms": f"{p50[row]:.2f}",
                    "against_eager": f"{p50['plain eager'] / p50[row]:.2f}",
                    "against_onnxruntime": f"{p50['plain file, onnxruntime'] / p50[row]:.2f}",
                    "against_openvino": f"{p50['plain file, openvino'] / p50[row]:.2f}",
                    "matrix_percent": f"{operations / (p50[row] / 1000) / rate * 100:.0f}",
                }
            if row == fastest:
                share = around(sessions[row], images, options.duration, ui)
                line["around_percent"] = f"{share:.1f}"
            if row in notes:
                parity = notes[row]
                line |= {
                    "agreement": f"{parity.agreement:.2f}",
                    "miou": parity.miou and f"{parity.miou:.2f}",
                    "torch_miou": parity.reference_miou and f"{parity.reference_miou:.2f}",
                    "gate": "passed" if parity.passed else "not met",
                }
            yield {**line, "hardware": f"{host.cpu_name()}, {host.cores()} cores"}


def exported(
    run: Path, path: Path, form: dict[str, Any], size: Size, options: argparse.Namespace, ui: Ui
) -> ArtifactCard:
    """The card of a form of the run's newest step, whose file may be there from before.

    Of one that missed its gate only the card is kept, under the file's name.
    """
    if not card_path(path).exists():
        result = edgeinc.export(
            run,
            **form,
            size=size,
            out=path,
            data="camvid",
            data_root=options.data_root,
            # An fp32 file agrees with torch to the pixel, so few images show it.
            limit=options.limit if "precision" in form else 4,
            progress=ui.progress,
        )
        if Path(result.path) != path:
            shutil.copyfile(card_path(Path(result.path)), card_path(path))
    return read_card(path)


def plain(network: TorchSession, folder: Path, threads: int) -> Iterator[tuple[str, Frame]]:
    """What one would run without edgeinc."""
    model = network.model
    mean = np.array(model.mean, np.float32)
    std = np.array(model.std, np.float32)

    def normalised(image: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(((image - mean) / std).transpose(2, 0, 1)[None], np.float32)

    def eager(network: Any, memory: Any, half: bool) -> Frame:
        def frame(image: np.ndarray) -> object:
            x = torch.from_numpy(normalised(image)).to(memory_format=memory)
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return network(x).logits.argmax(1).numpy()

        return frame

    # The session holds its network channels-last.
    first = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    yield "plain eager", eager(first, torch.contiguous_format, False)
    yield "plain eager, channels last", eager(model, torch.channels_last, False)
    yield "plain eager, bf16", eager(model, torch.channels_last, True)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = first

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.network(x).logits

    file = folder / "plain.onnx"
    example = torch.zeros(1, 3, *network.size)
    torch.onnx.export(Logits().eval(), (example,), file, dynamo=True, input_names=["x"])
    import onnxruntime
    import openvino

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    yield (
        "plain file, onnxruntime",
        lambda image: session.run(None, {"x": normalised(image)})[0].argmax(1),
    )
    compiled = openvino.Core().compile_model(
        str(file), "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()

    def by_openvino(image: np.ndarray) -> object:
        return request.infer([normalised(image)])[0].argmax(1)

    yield "plain file, openvino", by_openvino


def around(session: Session, images: list[np.ndarray], duration: float, ui: Ui) -> float:
    """Percent of a frame that is not the session: resizing of the image and of the ids.

    Taken of the fastest session, where it weighs most.
    """
    ready = [resize_image(image, session.size)[None] for image in images]
    both = [
        lambda i: predict_native(session, images[i % len(images)]),
        lambda i: session.run(ready[i % len(ready)]),
    ]
    whole, alone = (statistics(seconds).p50_ms for seconds in timed(both, duration / 3, ui))
    return 100 * (whole - alone) / whole


def timed(numbered: list[Callable[[int], object]], duration: float, ui: Ui) -> list[list[float]]:
    """Seconds of every frame of every variant, in turns."""
    for frame in numbered:
        warm_up(frame, duration=duration)
    found: dict[int, list[float]] = {}
    with ui.progress.task("time", len(numbered), "variant") as task:
        for index, one in interleave(numbered, duration=duration):
            found[index] = one.seconds
            task.advance()
    return [found[index] for index in range(len(numbered))]


def flops(network: TorchSession, size: Size) -> float:
    """Operations of one image, a multiplication and an addition counted as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.model(torch.zeros(1, 3, *size))
    return float(counter.get_total_flops())


def matrix_rate() -> float:
    """Operations a second of a large fp32 matrix product, the best of thirty."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    best = float("inf")
    for _ in range(30):
        start = perf_counter()
        a @ b
        best = min(best, perf_counter() - start)
    return 2 * 2048**3 / best


def write(lines: list[dict[str, object]], out: Path) -> None:
    """The table so far, as a whole."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    part = out.with_suffix(".part")
    out.parent.mkdir(parents=True, exist_ok=True)
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(lines)
    shutil.move(part, out)


if __name__ == "__main__":
    main()
