"""A question every file carries with its answer: has this machine computed what was exported?

The image is made of blocks by integer arithmetic, so it is the same everywhere and shows nobody's
street. The answer is every fourth row and column of the ids that ONNX Runtime gave when the file
was exported; of several images the one is kept on which the network sees most classes.

    entries = ask(session)                     # for the metadata of a file
    agreement(session, entries["golden"])      # percent
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgeinc.errors import EdgeincError
from edgeinc.schema import Size

GOLDEN = "golden"
"""Name of the entry."""
BLOCK, STRIDE, SEEDS = 16, 4, 8
GATES = {"fp32": 99.0}
OTHER_GATE = 97.0
"""Percent that must agree. Machines round differently, most of all with fewer bits."""
Answer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]


def image(size: Size, seed: int) -> npt.NDArray[np.uint8]:
    """The image of a number: (1, H, W, 3), blocks of 16 pixels with a shade across each."""
    height, width = size
    y, x, channel = np.indices((height, width, 3), dtype=np.uint32)
    mixed = (y // BLOCK) * np.uint32(73856093) ^ (x // BLOCK) * np.uint32(19349663)
    mixed ^= channel * np.uint32(83492791) ^ np.uint32(seed * 2654435761 % 2**32)
    mixed *= np.uint32(2246822519)  # wraps around, as it should
    base = (mixed ^ mixed >> np.uint32(15)) % np.uint32(200)
    shade = (y % BLOCK + x % BLOCK) * np.uint32(55) // np.uint32(2 * BLOCK - 2)
    blocks: npt.NDArray[np.uint8] = (base + shade).astype(np.uint8)[None]
    return blocks


def ask(run: Answer, size: Size) -> dict[str, str]:
    """The entry for a file's metadata: the number of an image and a sample of its ids."""
    ids = {seed: run(image(size, seed))[0, ::STRIDE, ::STRIDE] for seed in range(SEEDS)}
    seed = max(ids, key=lambda s: (len(np.unique(ids[s])), -s))
    sample = base64.b64encode(zlib.compress(ids[seed].tobytes(), 9)).decode()
    return {GOLDEN: json.dumps({"seed": seed, "ids": sample})}


def agreement(run: Answer, size: Size, entry: str) -> float:
    """Percent of the sample that agrees with what was exported.

    Raises:
        EdgeincError: The entry is damaged.
    """
    shape = (-(-size[0] // STRIDE), -(-size[1] // STRIDE))
    try:
        said = json.loads(entry)
        packed = base64.b64decode(said["ids"], validate=True)
        content = zlib.decompressobj().decompress(packed, shape[0] * shape[1] + 1)
        expected = np.frombuffer(content, np.uint8).reshape(shape)
        asked = image(size, int(said["seed"]))
    except (ValueError, KeyError, TypeError, zlib.error, binascii.Error) as err:
        raise EdgeincError(
            f"the golden answer in the file is damaged: {err}",
            hint="restore the file from a copy, or export it again",
        ) from err
    return float(100 * np.mean(run(asked)[0, ::STRIDE, ::STRIDE] == expected))


def gate(precision: str) -> float:
    """Percent of the sample that must agree."""
    return GATES.get(precision, OTHER_GATE)
