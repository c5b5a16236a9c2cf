"""Reads published weights from files that are not ours: `.pth` or `.safetensors`, never code."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from edgeinc.errors import EdgeincError, UsageError


def read_weights(path: Path) -> dict[str, Tensor]:
    """A flat table of tensors by name.

    Raises:
        UsageError: No such file.
        EdgeincError: The file needs arbitrary pickle, is damaged, or holds no tensors.
    """
    if not path.is_file():
        raise UsageError(f"no such weights file: {path}", hint="give the path of a .pth file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as err:
        raise EdgeincError(
            f"{path} does not load as plain tensors: {str(err).splitlines()[0]}",
            hint="save it again with torch.save(model.state_dict(), path)",
        ) from err
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise EdgeincError(
            f"{path} is not a state dict of tensors",
            hint="save it again with torch.save(model.state_dict(), path)",
        )
    return state
