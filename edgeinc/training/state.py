"""What a running step must remember to continue to the same bytes.

One safetensors file holds weights, optimiser, random generators and the position; it is replaced
atomically, so a kill at any moment leaves the last or the one before. Data needs no state: batches
are a function of the iteration.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from edgeinc.errors import RunError
from edgeinc.methods import Method
from edgeinc.runs import write_atomic

FILE = "state.safetensors"


class State:
    """The state of a running step, in its folder.

    Args:
        folder: The step's folder.
        model, optimizer, scaler, method: What is saved and restored.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        method: Method,
    ) -> None:
        self.path = folder / FILE
        self.model, self.optimizer, self.scaler, self.method = model, optimizer, scaler, method

    def save(self, iteration: int, seconds: float) -> None:
        """Write everything an exact continuation needs.

        Raises:
            RunError: The disk is full; the previous state is intact.
        """
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"method.{k}": v for k, v in self.method.state().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in slots.items() if v is not None}
        tensors["rng.cpu"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        facts = {"iteration": iteration, "seconds": seconds, "scaler": self.scaler.state_dict()}
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_atomic(self.path, save(plain, metadata={"edgeinc": json.dumps(facts)}))

    def load(self) -> tuple[int, float]:
        """Restore what `save` wrote; (0, 0.0) when nothing was written yet.

        Returns:
            The number of finished iterations and the seconds they took.

        Raises:
            RunError: The file is damaged.
        """
        if not self.path.exists():
            return 0, 0.0
        try:
            with safe_open(self.path, framework="pt") as file:
                facts = json.loads(file.metadata()["edgeinc"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as err:
            raise RunError(
                f"{self.path} is damaged: {err}",
                hint="repeat with --overwrite to start the step again",
            ) from err
        self.model.load_state_dict(_part(tensors, "model."))
        self.method.restore(_part(tensors, "method."))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            index, _, key = name.partition(".")
            own = parameters[int(index)]
            if tensor.shape == own.shape:
                # The fused optimiser walks raw memory: moments must lie as their parameter does.
                tensor = torch.empty_like(own).copy_(tensor)
            slots.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": slots})
        self.scaler.load_state_dict(facts["scaler"])
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        return int(facts["iteration"]), float(facts["seconds"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
