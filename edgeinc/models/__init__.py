"""Networks whose head grows: one file per network, file name = public name.

A model turns uint8 images into logits over every class it knows. Normalisation is part of it, so
training, evaluation and export cannot disagree. Its *head* is a list of per-step classifiers over
shared features (`_head.Head`); BiSeNet's two training-only outputs have heads of their own. A step
may bring a whole decoder instead (`Model.grow_decoder`): then every later step does too.

    model = create("erfnet", [3])            # three base classes
    model.grow(2)                             # two more at step 1
    out = model(model.normalise(images))      # images (B, H, W, 3) uint8 -> logits (B, 5, H, W)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from edgeinc import registry
from edgeinc.errors import UsageError
from edgeinc.models._head import Head
from edgeinc.schema import IMAGENET, Normalisation, Size

__all__ = [
    "Head",
    "Model",
    "Output",
    "check_size",
    "create",
    "nearest_size",
    "own_decoders",
    "restored",
]


class Output(NamedTuple):
    """What a model returns in one pass.

    Attributes:
        logits: (B, C, H, W) at the resolution of the input.
        aux: Further logits of the same shape that only training uses, empty in eval mode.
        features: (B, D, h, w), non-negative: what the deciding classifier sees; in a network with
            several decoders that of the first.
        stages: Maps (B, D', h', w') of the network's stages, shallow to deep, each non-negative.
        aux_features: What the classifier of each of `aux` sees, in the same order.
        unknown: (B, 1, H, W), the logit of what is none of the classes, see `add_unknown`.
    """

    logits: Tensor
    aux: tuple[Tensor, ...] = ()
    features: Tensor | None = None
    stages: tuple[Tensor, ...] = ()
    aux_features: tuple[Tensor, ...] = ()
    unknown: Tensor | None = None


class Model(nn.Module, ABC):
    """Base of every network.

    Attributes:
        Config: Frozen dataclass of the constructor's options.
        stride: Height and width must be multiples of it.
        encoded: Which of `Output.stages` is the encoder's last.
        branches: Decoders of the steps that have their own, by step.
        mean, std: Normalisation per RGB channel, for values of 0 to 255: ImageNet's, or that of
            the weights a run was imported from (`set_normalisation`).
    """

    Config: ClassVar[type[Any]]
    stride: ClassVar[int]
    encoded: ClassVar[int]
    _mean: Tensor
    _scale: Tensor
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict()
        self._unknown = False
        # What stays in eval mode, and parts of it that do not; each in the order of the calls.
        self._still_norms: list[nn.Module] = []
        self._still: list[nn.Module] = []
        self._moving: list[nn.Module] = []
        self.set_normalisation(IMAGENET)

    @abstractmethod
    def forward(self, x: Tensor) -> Output:
        """Logits for normalised images (B, 3, H, W)."""

    @abstractmethod
    def heads(self) -> tuple[Head, ...]:
        """Every head that grows, the one that decides first."""

    def new_decoder(self, classes: int) -> nn.Module:
        """What `grow_decoder` adds: a decoder with its classifier, `Head` in `.head`.

        It gets what `beside` is called with and returns logits (B, classes, H, W).

        Raises:
            UsageError: This network does not say what its decoder is.
        """
        raise UsageError(
            f"{type(self).__name__} has no decoder that a step could have of its own",
            hint="use another method, or another --model",
        )

    def decoders(self) -> tuple[nn.Module, ...]:
        """Everything behind the encoder in parts, own decoders last in the order of the steps."""
        return (*self.heads(), *self.branches.values())

    def set_normalisation(self, normalisation: Normalisation) -> None:
        """Normalise images as the weights expect it."""
        self.mean, self.std = normalisation
        # Buffers so that `.to(device)` moves them; not in the state dict: the run is the source.
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        self.register_buffer("_mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_scale", 1 / std.view(1, 3, 1, 1), persistent=False)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB (B, H, W, 3) to float (B, 3, H, W), channels-last in memory.

        The cast comes before the permutation: TensorRT refuses to transpose uint8.
        """
        x = images.to(self._mean.dtype).permute(0, 3, 1, 2)
        return (x - self._mean) * self._scale

    def load_backbone(self, state: dict[str, Tensor]) -> int:
        """Take ImageNet weights for the backbone; returns how many tensors matched.

        Raises:
            UsageError: This network has no backbone with published weights.
        """
        raise UsageError(
            f"{type(self).__name__} has no ResNet backbone to initialise",
            hint="leave out --init, or use --model bisenet",
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """Number of classes added at each step."""
        own: list[Any] = list(self.branches.values())
        return (*self.heads()[0].steps, *(n for branch in own for n in branch.head.steps))

    def grow(self, classes: int) -> None:
        """Append a classifier for `classes` new classes to every head.

        Raises:
            UsageError: A step has a decoder of its own: its classes would come after these.
        """
        if self.branches:
            first = next(iter(self.branches))
            raise UsageError(
                f"step {first} has a decoder of its own, and every later step needs one",
                hint="use --method feature_extraction or finetune_decoder",
            )
        for head in self.heads():
            head.grow(classes)

    def grow_decoder(self, classes: int) -> None:
        """Append a randomly initialised decoder with a classifier for `classes` new classes.

        Old keys of the state dict do not change; the new ones start with `branches.STEP.`.

        Raises:
            UsageError: This network does not say what its decoder is.
        """
        reference = next(self.parameters())
        self.branches[str(len(self.steps))] = self.new_decoder(classes).to(reference)

    def beside(self, logits: Tensor, *encoded: Tensor) -> Tensor:
        """The first decoder's logits and those of every own decoder, in the order of the steps."""
        if not self.branches:
            return logits
        return torch.cat([logits, *(branch(*encoded) for branch in self.branches.values())], 1)

    def add_unknown(self) -> None:
        """Give the deciding head a row for what is none of the classes, randomly initialised.

        From then on the network decides by sigmoids: id 0, the background, has the sum of its own
        and that of this row. Does nothing where there is one already.
        """
        if not self._unknown:
            self.heads()[0].add_extra()
            self._unknown = True

    def drop_unknown(self) -> None:
        """Take that row away; the background's becomes what it was. Does nothing without one."""
        if not self._unknown:
            return
        head = self.heads()[0]
        weight, bias = head.rows()
        first: Any = head[0]
        with torch.no_grad():
            own = first.weight.narrow(head.class_axis, 0, 1)
            own.copy_(weight.narrow(head.class_axis, -1, 1))
            first.bias[0] = bias[-1]
        head.drop_extra()
        self._unknown = False

    def parted(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the deciding head says as logits of the classes and, where there is one, `unknown`.

        Every `forward` takes its logits through this.
        """
        return (scores[:, :-1], scores[:, -1:]) if self._unknown else (scores, None)

    def decide(self, output: Output) -> Tensor:
        """Scores (B, C, H, W) of which the highest is the decision: the logits, or sigmoids."""
        if output.unknown is None:
            return output.logits
        scores, unknown = torch.sigmoid(output.logits), torch.sigmoid(output.unknown)
        return torch.cat([scores[:, :1] + unknown, scores[:, 1:]], 1)

    @property
    def decision(self) -> str:
        """The rule of decision in words."""
        return "argmax of sigmoids, unknown added to background" if self._unknown else "argmax"

    def freeze_bn(self, *, stats: bool, affine: bool) -> None:
        """Keep BatchNorm's running statistics and/or its scale and shift as they are.

        The first survives every later `train()`; both can be undone by another call. It is about
        the BatchNorms there are: those of a decoder that is added later learn.
        """
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.requires_grad_(not affine)
        self._still_norms = list(norms) if stats else []
        self.train(self.training)

    def freeze(self, *modules: nn.Module, but: Sequence[nn.Module] = ()) -> None:
        """Keep modules as they are: no parameter moves, and they stay in eval mode for good.

        Args:
            modules: The network itself or parts of it.
            but: Parts of them that learn all the same.
        """
        for module in modules:
            module.requires_grad_(False)
        for module in but:
            module.requires_grad_(True)
        self._still += modules
        self._moving += but
        self.train(self.training)

    def keep_like(self, norm: nn.Module, other: nn.Module) -> None:
        """Let a BatchNorm that was added keep its statistics if another one does."""
        if any(norm is each for each in self._still_norms):
            self._still_norms.append(other)

    def train(self, mode: bool = True) -> Model:
        """As in torch, but what is frozen stays in eval mode."""
        super().train(mode)
        for modules, value in (
            (self._still_norms, False),
            (self._still, False),
            (self._moving, mode),
        ):
            for part in [part for module in modules for part in module.modules()]:
                part.training = value
        return self


def create(
    name: str,
    steps: Sequence[int],
    options: dict[str, Any] | None = None,
    *,
    normalisation: Normalisation = IMAGENET,
    decoders: Collection[int] = (),
) -> Model:
    """Build a model with randomly initialised weights.

    Args:
        name: Plug-in name, see `edgeinc ls models`.
        steps: Number of classes added at each step so far, e.g. (3, 2).
        options: Fields of the model's `Config`.
        normalisation: What the weights that will be loaded expect of an image.
        decoders: Steps that have a decoder of their own.

    Raises:
        UsageError: No such model or option.
    """
    plugin = registry.load("models", name)
    known = tuple(f.name for f in fields(plugin.Config))
    for key in options or {}:
        if key not in known:
            raise UsageError(f"unknown option '{key}' of {name}", hint=registry.suggest(key, known))
    model = plugin(steps[0], **asdict(plugin.Config(**(options or {}))))
    for step, classes in enumerate(steps[1:], 1):
        (model.grow_decoder if step in decoders else model.grow)(classes)
    model.set_normalisation(normalisation)
    return model


def own_decoders(names: Iterable[str]) -> frozenset[int]:
    """Steps with a decoder of their own, from the names in a state dict."""
    return frozenset(int(name.split(".")[1]) for name in names if name.startswith("branches."))


def restored(
    name: str,
    steps: Sequence[int],
    state: Mapping[str, Tensor],
    options: dict[str, Any] | None = None,
    *,
    normalisation: Normalisation = IMAGENET,
) -> Model:
    """The network that a state dict is from; arguments as for `create`."""
    own = own_decoders(state)
    model = create(name, steps, options, normalisation=normalisation, decoders=own)
    if any(key.endswith(".extra_weight") for key in state):
        model.add_unknown()
    model.load_state_dict(state)
    return model


def nearest_size(name: str, size: Size) -> Size:
    """The size nearest to `size` that the network can divide."""
    stride: int = registry.load("models", name).stride
    height, width = (max(stride, round(side / stride) * stride) for side in size)
    return height, width


def check_size(name: str, size: Size) -> None:
    """Refuse a size the network cannot divide.

    Raises:
        UsageError: With the next size that fits.
    """
    stride = registry.load("models", name).stride
    fitting = tuple(max(stride, -(-side // stride) * stride) for side in size)
    if fitting != tuple(size):
        raise UsageError(
            f"size {size[0]}x{size[1]} is not divisible by {stride} for {name}",
            hint=f"use --size {fitting[0]}x{fitting[1]}",
        )
