"""Reads published weights from files that are not ours: `.pth` or `.safetensors`, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeinc.errors import EdgeincError, UsageError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights beside their optimiser and epoch."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """A flat table of tensors by name.

    A training checkpoint that keeps the table under one of `WRAPPERS` is opened to it; the prefix
    that `DataParallel` puts before every name is taken off.

    Raises:
        UsageError: No such file.
        EdgeincError: The file needs arbitrary pickle, is damaged, or holds no tensors.
    """
    if not path.is_file():
        raise UsageError(f"no such weights file: {path}", hint="give the path of a .pth file")
    state = _load(path)
    if isinstance(state, dict):
        state = next((state[k] for k in WRAPPERS if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict) or not state or not all(map(_is_entry, state.items())):
        raise EdgeincError(
            f"{path} is not a state dict of tensors",
            hint="save it again with torch.save(model.state_dict(), path)",
        )
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: t for name, t in state.items()}


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # a damaged file makes the readers raise whatever comes
        reason = str(err).strip().partition("\n")[0]
        if "Weights only load failed" in reason:  # what follows is advice to load it unsafely
            reason = "it is damaged, or asks for code to be run"
        raise EdgeincError(
            f"{path} does not load as plain tensors: {reason}",
            hint="save it again with torch.save(model.state_dict(), path)",
        ) from err


def _is_entry(item: tuple[Any, Any]) -> bool:
    name, value = item
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and not value.is_quantized and not value.is_complex()
