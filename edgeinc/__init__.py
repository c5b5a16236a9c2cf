"""edgeinc teaches a deployed segmentation network new classes and ships the result.

The commands of the same names are thin over the functions here. They take paths and keyword
arguments, return the dataclasses of `edgeinc.schema` that `--json` prints, and never print.
Everything is loaded on first use: `import edgeinc` needs neither torch nor ONNX Runtime.

    import edgeinc

    base = edgeinc.train("camvid", classes=["sky", "road", "tree"], model="erfnet")
    edgeinc.extend(base.run, new_classes=["car"])
    print(edgeinc.evaluate(base.run).miou.all)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeinc.deploy.bench import bench
    from edgeinc.deploy.export import export
    from edgeinc.evaluation import evaluate
    from edgeinc.runs import open_run
    from edgeinc.runtimes import open_artifact
    from edgeinc.training import extend, import_weights, train
    from edgeinc.update.publish import publish

__version__ = "0.1.0"

__all__ = [
    "bench",
    "evaluate",
    "export",
    "extend",
    "import_weights",
    "open_artifact",
    "open_run",
    "publish",
    "train",
]

_HOME = {
    "train": "edgeinc.training",
    "extend": "edgeinc.training",
    "import_weights": "edgeinc.training",
    "evaluate": "edgeinc.evaluation",
    "export": "edgeinc.deploy.export",
    "bench": "edgeinc.deploy.bench",
    "open_run": "edgeinc.runs",
    "open_artifact": "edgeinc.runtimes",
    "publish": "edgeinc.update.publish",
}


def __getattr__(name: str) -> Any:
    """Load a public function from its module on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'edgeinc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
