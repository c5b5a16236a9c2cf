"""Published weights in the names of our networks, every tensor of the file accounted for.

A release names the same layers otherwise. Each `Release` is one table of prefixes, read in both
directions: to rename what a file holds, and to say in its own names what it lacks.

    weights = published(read_weights(path), "erfnet", path)
    model = weights.fit(create("erfnet", [weights.outputs], weights.options))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeinc.errors import EdgeincError, UsageError, as_typed
from edgeinc.models import Head, Model, create, own_decoders
from edgeinc.schema import IMAGENET, Normalisation

SHOWN = 3
"""Names an error spells out; the rest are counted."""

UNIT = Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
"""Values of 0 to 1 as they are."""

CITYSCAPES = Normalisation((83.0535, 94.095, 82.1865), (53.856, 54.774, 53.9325))
"""(0.3257, 0.3690, 0.3223) and (0.2112, 0.2148, 0.2115), times 255."""


@dataclass(frozen=True)
class Release:
    """How one implementation names the layers of a network.

    Attributes:
        title: In words, for messages.
        model: Our network.
        marker: A tensor that only this release has.
        names: Pairs of prefixes, (theirs, ours).
        dropped: Prefix of what no step of ours uses, and why.
        normalisation: What its weights were trained with, and in words where that is from.
        options: Options of our network that the file's tensors ask for.
        biases: Ours that layers of the release may not have: zero is then the same.
    """

    title: str
    model: str
    marker: str
    names: tuple[tuple[str, str], ...]
    dropped: Mapping[str, str]
    normalisation: tuple[Normalisation, str]
    options: Callable[[Mapping[str, Tensor]], dict[str, Any]] = lambda state: {}
    biases: Callable[[Mapping[str, Tensor]], tuple[str, ...]] = lambda state: ()

    def ours(self, name: str) -> str | None:
        """Our name of a tensor of the release; None where we have none."""
        return next((b + name[len(a) :] for a, b in self.names if name.startswith(a)), None)

    def theirs(self, name: str) -> str:
        """The release's name of one of our tensors."""
        return next((a + name[len(b) :] for a, b in self.names if name.startswith(b)), name)


@dataclass(frozen=True)
class Published:
    """What a file holds, renamed.

    Attributes:
        file: Where it is from, for messages.
        title: Whose names it was in.
        tensors: By our names, the classifiers of every step as step 0.
        options: Options of the network that these weights need.
        normalisation: What the release was trained with.
        source: Where the normalisation is from, in words.
        matched: Tensors of the file that are in `tensors`.
        dropped: Names in the file, or one output of them, and why they are left out.
        filled: Our names of what the file does not have, and what they hold.
        unexpected: Names in the file that nothing of ours has a place for.
        notes: What else happened.
        theirs: From our names to those in the file.
        heads: Our names of the heads, the one that decides first, with the axis of the classes.
    """

    file: Path
    title: str
    tensors: dict[str, Tensor]
    options: dict[str, Any]
    normalisation: Normalisation
    source: str
    matched: int
    heads: tuple[tuple[str, int], ...]
    theirs: Callable[[str], str] = lambda name: name
    dropped: dict[str, str] = field(default_factory=dict)
    filled: dict[str, str] = field(default_factory=dict)
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outputs(self) -> int | None:
        """Classes of the head that decides; None where the file has no such tensor."""
        head, axis = self.heads[0]
        weight = self.tensors.get(f"{head}.0.weight")
        return weight.shape[axis] if weight is not None and weight.ndim > axis else None

    def without_last_output(self, reason: str) -> Published:
        """The same with one class less."""
        tensors, dropped = dict(self.tensors), dict(self.dropped)
        for head, axis in self.heads:
            for name, along in ((f"{head}.0.weight", axis), (f"{head}.0.bias", 0)):
                if name in tensors:
                    last = tensors[name].shape[along] - 1
                    tensors[name] = tensors[name].narrow(along, 0, last)
                    if name not in self.filled:
                        dropped[f"{self.theirs(name)}, output {last}"] = reason
        return replace(self, tensors=tensors, dropped=dropped)

    def fit(self, model: Model) -> Model:
        """Fill a network with one class per output; every tensor of both sides must have its place.

        Raises:
            EdgeincError: Tensors are missing, unexpected, of another shape or not finite.
        """
        own = model.state_dict()
        # Counts training batches, which nothing of ours reads; old releases do not have it.
        counters = {name for name in own if name.endswith("num_batches_tracked")}
        missing = [self.theirs(n) for n in own if n not in self.tensors and n not in counters]
        unexpected = [*self.unexpected, *(self.theirs(n) for n in self.tensors if n not in own)]
        shapes = [
            f"{self.theirs(n)} {tuple(t.shape)} in the file, {tuple(own[n].shape)} in the network"
            for n, t in self.tensors.items()
            if n in own and t.shape != own[n].shape
        ]
        faults = [
            f"{len(names)} {what} ({listed(names, '; ' if names is shapes else ', ')})"
            for names, what in (
                (missing, "missing"),
                (unexpected, "unexpected"),
                (shapes, "of another shape"),
            )
            if names
        ]
        if faults:
            raise EdgeincError(
                f"{self.file} ({self.title}) does not fit the network: {'; '.join(faults)}",
                hint=self._remedy(missing, shapes),
            )
        for name, tensor in self.tensors.items():
            if not torch.isfinite(tensor.float()).all():
                raise EdgeincError(
                    f"{self.theirs(name)} in {self.file} has values that are not finite",
                    hint="take an earlier checkpoint of that training",
                )
        model.load_state_dict({**own, **self.tensors})
        return model

    def _remedy(self, missing: Sequence[str], shapes: Sequence[str]) -> str:
        if shapes:
            return "if it was built otherwise, say how: --set model.KEY=VALUE"
        if missing:
            return "save the state dict of the whole network, its training-only outputs included"
        return "the file belongs to another version of the network"


def published(state: Mapping[str, Tensor], model: str, file: Path) -> Published:
    """Rename the tensors of a file for one of our networks.

    Args:
        state: Tensors by the file's names.
        model: Name of our network.
        file: Where they are from, for messages.

    Raises:
        UsageError: The names are those of another network, of a bare backbone, or of none known.
    """
    with torch.device("meta"):
        heads = _heads(create(model, [1]))
    if f"{heads[0][0]}.0.weight" in state:
        return _own(state, heads, file)
    release = next((r for r in RELEASES if r.marker in state), None)
    if release is None:
        raise _unknown(state, model, file)
    if release.model != model:
        raise UsageError(
            f"{file} holds {release.title}, not {model}", hint=f"use --model {release.model}"
        )
    return _renamed(state, release, heads, file)


def _renamed(
    state: Mapping[str, Tensor], release: Release, heads: tuple[tuple[str, int], ...], file: Path
) -> Published:
    tensors: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    unexpected: list[str] = []
    for name, tensor in state.items():
        reason = next((r for p, r in release.dropped.items() if name.startswith(p)), None)
        ours = release.ours(name)
        if reason is not None:
            dropped[name] = reason
        elif ours is None:
            unexpected.append(name)
        else:
            tensors[ours] = tensor
    filled = {}
    for name in release.biases(state):
        weight = tensors.get(f"{name.removesuffix('bias')}weight")
        if weight is not None and weight.ndim and name not in tensors:
            tensors[name] = weight.new_zeros(len(weight))
            filled[name] = "zero: the release's layer has no bias"
    normalisation, source = release.normalisation
    return Published(
        file=file,
        title=release.title,
        tensors=tensors,
        options=release.options(state),
        normalisation=normalisation,
        source=source,
        matched=len(tensors) - len(filled),
        heads=heads,
        theirs=release.theirs,
        dropped=dropped,
        filled=filled,
        unexpected=tuple(unexpected),
    )


def _own(state: Mapping[str, Tensor], heads: tuple[tuple[str, int], ...], file: Path) -> Published:
    """A state dict of ours, where the classifiers of later steps become part of step 0."""
    if own := sorted(own_decoders(state)):
        raise UsageError(
            f"{file} has a decoder of its own for step {', '.join(map(str, own))}: "
            "that is no network of one step",
            hint="extend or export the run it is from; to import, take the weights of step 0",
        )
    tensors, steps = dict(state), 1
    for head, axis in heads:
        for part, along in (("weight", axis), ("bias", 0)):
            rows: list[Tensor] = []
            while (name := f"{head}.{len(rows)}.{part}") in tensors:
                rows.append(tensors.pop(name))
            if rows:
                tensors[f"{head}.0.{part}"] = _joined(rows, along, f"{head}.N.{part}", file)
            steps = max(steps, len(rows))
    note = f"the classifiers of {steps} steps were joined: they are all step 0 now"
    return Published(
        file=file,
        title="edgeinc's own names",
        tensors=tensors,
        options={},
        normalisation=IMAGENET,
        source="ImageNet, edgeinc's default",
        matched=len(state),
        heads=heads,
        notes=(note,) if steps > 1 else (),
    )


def _joined(rows: Sequence[Tensor], axis: int, name: str, file: Path) -> Tensor:
    try:
        return torch.cat(list(rows), axis)
    except (RuntimeError, IndexError) as err:
        raise EdgeincError(
            f"the classifiers {name} in {file} do not fit together: "
            + ", ".join(str(tuple(row.shape)) for row in rows),
            hint="restore the file from a copy",
        ) from err


def _heads(model: Model) -> tuple[tuple[str, int], ...]:
    names = {module: name for name, module in model.named_modules() if isinstance(module, Head)}
    return tuple((names[head], head.class_axis) for head in model.heads())


def _unknown(state: Mapping[str, Tensor], model: str, file: Path) -> UsageError:
    if "layer1.0.conv1.weight" in state:
        return UsageError(
            f"{file} holds a bare ResNet, which has no classes to import",
            hint=f"start from it with `{as_typed('train', '--model', 'bisenet', '--init', file)}`",
        )
    known = [r.title for r in RELEASES if r.model == model] + ["edgeinc's own names"]
    return UsageError(
        f"{file} is in names that are not known for {model}: {listed(list(state), ', ')}",
        hint=f"known for it: {', '.join(known)}",
    )


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first few names, and how many more there are."""
    more = f"{separator}and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return separator.join(names[:SHOWN]) + more


# ---------------------------------------------------------------------------------- releases

ERFNET = Release(
    title="the ERFNet PyTorch release",
    model="erfnet",
    marker="encoder.initial_block.conv.weight",
    names=(
        ("encoder.initial_block.", "encoder.0."),
        *((f"encoder.layers.{i}.", f"encoder.{i + 1}.") for i in range(15)),
        *((f"decoder.layers.{i}.", f"decoder.{i}.") for i in range(6)),
        ("decoder.output_conv.", "head.0."),
    ),
    dropped={"encoder.output_conv.": "classifies in the training of the encoder alone"},
    normalisation=(UNIT, "the release trains on plain values of 0 to 1"),
)

_OUTPUTS = (("conv_out.", "classifier."), ("conv_out16.", "aux16."), ("conv_out32.", "aux32."))


def _bisenet_options(state: Mapping[str, Tensor]) -> dict[str, Any]:
    fusion = "norm" if "ffm.conv.weight" in state else "paper"
    return {"fusion": fusion, "align_corners": fusion == "paper" and not _with_bias(state)}


def _bisenet_biases(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What the form with squeeze and excite lacks: there no bias, or none but the classifiers'."""
    if "ffm.conv.weight" in state:
        return ()
    outputs = () if _with_bias(state) else tuple(f"{ours}head.0.bias" for _, ours in _OUTPUTS)
    return ("fuse.squeeze.bias", "fuse.excite.bias", *outputs)


def _with_bias(state: Mapping[str, Tensor]) -> bool:
    return any(f"{theirs}conv_out.bias" in state for theirs, _ in _OUTPUTS)


BISENET = Release(
    title="CoinCheung's BiSeNet v1",
    model="bisenet",
    marker="cp.resnet.conv1.weight",
    names=(
        ("sp.conv1.", "spatial.0."),
        ("sp.conv2.", "spatial.1."),
        ("sp.conv3.", "spatial.2."),
        ("sp.conv_out.", "spatial.3."),
        ("cp.resnet.", "backbone."),
        *(
            pair
            for i in (16, 32)
            for pair in (
                (f"cp.arm{i}.conv.", f"refine{i}.conv."),
                (f"cp.arm{i}.conv_atten.", f"refine{i}.attention."),
                (f"cp.arm{i}.bn_atten.", f"refine{i}.bn."),
                (f"cp.conv_head{i}.", f"smooth{i}."),
            )
        ),
        ("cp.conv_avg.", "tail."),
        ("ffm.convblk.", "fuse.conv."),
        ("ffm.conv.", "fuse.attention."),
        ("ffm.bn.", "fuse.bn."),
        ("ffm.conv1.", "fuse.squeeze."),
        ("ffm.conv2.", "fuse.excite."),
        *((f"{theirs}conv_out.", f"{ours}head.0.") for theirs, ours in _OUTPUTS),
        *((f"{theirs}conv.", f"{ours}conv.") for theirs, ours in _OUTPUTS),
    ),
    dropped={"cp.resnet.fc.": "ImageNet's classifier"},
    normalisation=(CITYSCAPES, "the release's statistics of Cityscapes"),
    options=_bisenet_options,
    biases=_bisenet_biases,
)

RELEASES = (ERFNET, BISENET)
