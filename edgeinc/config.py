"""Typed settings, and where each value came from.

A setting is looked for, strongest first, in: the flag, `--set`, the environment, `-c FILE.toml`,
the run's earlier step, the default. Values are checked where they are resolved; an unknown key or
a wrong type is an error that names the value, never a silent default.

    layers = [Layer("runs/a", stored), Layer("fast.toml", table), Layer("flag", {"lr": 1e-3})]
    settings, sources = resolve(TrainSettings, layers)
    sources["lr"]                    # Setting(value=0.001, source='flag')
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

from annotated_types import Ge, Gt, Lt

from edgeinc.errors import UsageError
from edgeinc.registry import suggest
from edgeinc.schema import Setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
Positive = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]

TABLES = ("model", "method")
"""Tables of a settings file whose keys belong to a plug-in's `Config`."""


Weighting = Literal["none", "log", "inverse"]
"""How cross-entropies weigh classes, see `TrainSettings.class_weights`."""


@dataclass(frozen=True)
class TrainSettings:
    """How a step is trained. Defaults follow the CIL paper (S001): Adam 5e-4, wd 3e-4, batch 6.

    Attributes:
        epochs: Passes over the step's images.
        batch_size: Images per forward pass.
        accumulate: Forward passes per optimiser iteration.
        lr: Initial learning rate; decays as (1 - i/n)^0.9 per iteration.
        optimizer: `adam`, `adamw` or `sgd` (momentum 0.9, Nesterov).
        weight_decay: L2 penalty of the optimiser.
        precision: `auto` takes bf16 where the processor computes in it, else fp32 (CPU), and
            bf16 or fp16 on CUDA.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: Threads torch computes with; 0 takes every core of this process.
        workers: Threads that read and augment images beside the training.
        seed: Seeds initialisation, dropout, order and augmentation.
        deterministic: Refuse operations without a deterministic implementation (CUDA).
        compile: Compile the network with torch.compile.
        color_jitter: Half width of the random gains of brightness, contrast and saturation
            around 1; 0 leaves colours as they are.
        class_weights: Cross-entropy weights from the step's labelled pixels: `log` is
            1 / ln(1.1 + p), `inverse` is 1 / p scaled to mean 1, p the share of a class.
        freeze_bn_stats: Keep BatchNorm's running statistics in extension steps.
        freeze_bn_affine: Keep BatchNorm's scale and shift in extension steps.
        init: File with ImageNet weights for the backbone, where a network starts fresh.
        selection: Which images belong to a step: `overlapped`, `disjoint`, `partitioned`, or
            `listed`, those that the scenario lists; `auto` is the scenario's, else overlapped.
        labels: `new-only` hides the labels of older classes in new images, `new-and-old` keeps
            them; `auto` is the scenario's, else new-only.
        index: File that lists the images of the step instead (.npy or text).
        hold_out: Share of the step's images kept out of training, to choose settings by; an image
            is on the same side at every step. `eval --split hold-out` scores them.
        convention: What void is in training, and how `eval` scores (`edgeinc ls conventions`).
        limit: Use the first N images of the step only, and N to score it (a smoke test); a method
            that trains on every image so far takes N of each step.
    """

    epochs: Positive = 40
    batch_size: Positive = 6
    accumulate: Positive = 1
    lr: Annotated[float, Gt(0)] = 5e-4
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: Annotated[float, Ge(0)] = 3e-4
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: Natural = 0
    workers: Natural = 2
    seed: Natural = 0
    deterministic: bool = False
    compile: bool = False
    color_jitter: Annotated[float, Ge(0), Lt(1)] = 0.2
    class_weights: Weighting = "log"
    freeze_bn_stats: bool = False
    freeze_bn_affine: bool = False
    init: str = ""
    selection: Literal["auto", "listed", "overlapped", "disjoint", "partitioned"] = "auto"
    labels: Literal["auto", "new-only", "new-and-old"] = "auto"
    index: str = ""
    hold_out: Annotated[float, Ge(0), Lt(1)] = 0.0
    convention: str = "default"
    limit: Positive | None = None


class Layer(NamedTuple):
    """Values from one source; tables of plug-ins are nested mappings."""

    source: str
    values: Mapping[str, Any]


def from_flags(values: Mapping[str, Any]) -> Layer:
    """The flags or keyword arguments that were given; None means not given."""
    return Layer("flag", {k: v for k, v in values.items() if v is not None})


def from_sets(items: Sequence[str]) -> Layer:
    """`KEY=VALUE` items as `--set` takes them; the value is read as a TOML scalar, else as text.

    Raises:
        UsageError: An item without `=`.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"cannot read --set {item}", hint="write it as --set lr=0.001")
        table, dot, name = key.strip().partition(".")
        target = values.setdefault(table, {}) if dot else values
        target[name if dot else table] = _scalar(text.strip())
    return Layer("--set", values)


def from_environment() -> Layer:
    """`EDGEINC_LR=0.001` and its like, for every field of `TrainSettings`."""
    values = {}
    for field in fields(TrainSettings):
        text = os.environ.get(f"EDGEINC_{field.name.upper()}")
        if text is not None:
            values[field.name] = _scalar(text)
    return Layer("environment", values)


def from_file(path: Path) -> Layer:
    """A TOML file with the settings' names as keys, options of plug-ins in [model] and [method].

    Raises:
        UsageError: No such file, or it is not TOML.
    """
    try:
        return Layer(str(path), tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as err:
        raise UsageError(f"no such settings file: {path}", hint="check the path of -c") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise UsageError(f"{path} is not TOML: {err}", hint="write it as lr = 0.001") from err


def resolve(
    kind: type[T], layers: Iterable[Layer], *, table: str = ""
) -> tuple[T, dict[str, Setting]]:
    """Fill a settings dataclass from layers, weakest first.

    Args:
        kind: A frozen dataclass whose fields all have defaults.
        layers: Sources in rising strength.
        table: Take the layers' table of that name (`model`, `method`) instead of the top level.

    Returns:
        The settings, and for each field its value and source.

    Raises:
        UsageError: An unknown key, a wrong type or a value out of range.
    """
    resolved = {f.name: Setting(_default(f), "default") for f in fields(kind)}  # type: ignore[arg-type]
    known = tuple(resolved)
    for layer in layers:
        values = layer.values.get(table, {}) if table else layer.values
        for key, value in values.items():
            if not table and key in TABLES:
                continue
            if key not in known:
                place = f"{table}.{key}" if table else key
                raise UsageError(
                    f"unknown setting '{place}' ({layer.source})", hint=suggest(key, known)
                )
            resolved[key] = Setting(_checked(kind, key, value, layer.source), layer.source)
    return kind(**{k: s.value for k, s in resolved.items()}), resolved


def parse_size(text: str) -> tuple[int, int]:
    """`HxW` as (height, width).

    Raises:
        UsageError: Not two positive numbers.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise UsageError(f"cannot read size '{text}'", hint="write height x width: 360x480")
    return int(height), int(width)


def split_names(text: str, what: str) -> list[str]:
    """`a,b,c` as a list.

    Args:
        text: The names.
        what: The flag or argument they were given as, for the message.

    Raises:
        UsageError: There is an empty name.
    """
    listed = [name.strip() for name in text.split(",")]
    if not all(listed):
        raise UsageError(f"an empty name in {what} '{text}'", hint=f"write it as {what} a,b,c")
    return listed


def _scalar(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _default(field: Any) -> Any:
    return field.default if field.default is not MISSING else field.default_factory()


@cache
def _adapter(kind: Any, name: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(get_type_hints(kind, include_extras=True)[name])


def _checked(kind: type[Any], name: str, value: Any, source: str) -> Any:
    from pydantic import ValidationError

    adapter: Any = _adapter(kind, name)  # type: ignore[arg-type]  # classes are hashable
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as err:
        reason = err.errors()[0]["msg"]
        raise UsageError(
            f"{name} = {value!r} is not usable: {reason[0].lower()}{reason[1:]}",
            hint=f"it came from {source}",
        ) from err
