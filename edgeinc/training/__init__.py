"""Training a network's base step and teaching it new classes; prints nothing.

`steps.py` decides what a step is (classes, images, settings) and records it; `loop.py` is the one
loop every step runs through; `state.py` is what makes a killed step resumable; `importing.py`
makes a step 0 of published weights instead.
"""

from edgeinc.training.importing import import_weights
from edgeinc.training.steps import extend, train

__all__ = ["extend", "import_weights", "train"]
