"""The classifier of a file in head mode `dynamic`: two inputs of the graph, kept in its metadata.

rows = decode(path, metadata, shape)      # {"head_weight": (R, P, C), "head_bias": (R,)}
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError

HEAD_WEIGHT, HEAD_BIAS = "head_weight", "head_bias"
"""Names of the inputs and of their entries in the metadata."""
Rows = dict[str, npt.NDArray[np.float32]]


def encode(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> dict[str, str]:
    """Entries of a file's metadata: base64 of little-endian float32.

    Args:
        weight: (R, P, C), see `deploy._heads`.
        bias: (R,).
    """
    named = {HEAD_WEIGHT: weight, HEAD_BIAS: bias}
    return {k: base64.b64encode(v.astype("<f4").tobytes()).decode() for k, v in named.items()}


def decode(path: Path, metadata: Mapping[str, str], shape: tuple[int, int, int]) -> Rows:
    """What `encode` wrote, as feeds of a session.

    Args:
        path: The file, for the message.
        metadata: Of the file.
        shape: (R, P, C) as its card says.

    Raises:
        EdgeincError: It is missing, has another size, or is not finite.
    """
    found: Rows = {}
    for name, expected in ((HEAD_WEIGHT, shape), (HEAD_BIAS, shape[:1])):
        try:
            content = base64.b64decode(metadata.get(name, ""), validate=True)
        except binascii.Error:
            content = b""
        if len(content) != 4 * math.prod(expected) or not content:
            raise _damaged(path, f"{name} is not {expected} numbers of float32")
        found[name] = np.frombuffer(content, "<f4").reshape(expected).astype(np.float32)
        if not np.isfinite(found[name]).all():
            raise _damaged(path, f"{name} holds values that are not finite")
    return found


def _damaged(path: Path, what: str) -> EdgeincError:
    return EdgeincError(
        f"the classifier in {path} is damaged: {what}",
        hint="restore the file from a copy, or export it again",
    )
