"""The process in which NNCF quantises: `python -m edgeinc.deploy._nncf_child`.

NNCF imports torch, prints bars to standard output and, unless its environment says otherwise,
reports its use to its makers over the network. None of that belongs into the exporting process.
It reads a job as JSON from standard input and answers in lines of JSON; see `edgeinc.child`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def quantise(job: dict[str, Any]) -> None:
    """Quantise `job["body"]` into `job["out"]`: per-channel weights, biases corrected.

    The job also names `feeds`, a .npy of batches (B, N, H, W, 3), and `outside`, the nodes to
    leave alone.
    """
    os.environ["NNCF_CI"] = "1"  # read at import: nothing is sent
    import logging

    import nncf
    import numpy as np
    import onnx

    nncf.set_log_level(logging.ERROR)
    body = onnx.shape_inference.infer_shapes(onnx.load(job["body"]))
    feeds = np.load(job["feeds"])
    quantised = nncf.quantize(
        body,
        nncf.Dataset([{job["input"]: batch} for batch in feeds]),
        subset_size=len(feeds),
        # Shapes may hide a node from NNCF's own graph; a name it does not know is no fault.
        ignored_scope=nncf.IgnoredScope(names=job["outside"], validate=False),
    )
    onnx.save(quantised, job["out"])


def main() -> int:
    """Do the job on standard input."""
    job = json.loads(sys.stdin.buffer.read())
    # Bars go to descriptor 1; what is said to the parent must stay apart from them.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        out.write(json.dumps({"phase": "NNCF"}) + "\n")
        out.flush()
        quantise(job)
        out.write(json.dumps({"result": {}}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
