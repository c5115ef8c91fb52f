"""PyTorch: trace a module, collect activations, arrange, reorganize, shrink.

Parameters keep their identity: optimizers, schedules, wrappers and checkpoints stay valid.  Only
:func:`shrink` replaces them, for they become smaller.
"""

from .collect import collect
from .operators import Value, register_operator
from .reorganize import arrange, reorganize, shrink
from .trace import TracedModel, observe, trace
from .training.reorganizer import Reorganizer
from .training.warm_up import WarmUp

__all__ = [
    "Reorganizer",
    "TracedModel",
    "Value",
    "WarmUp",
    "arrange",
    "collect",
    "observe",
    "register_operator",
    "reorganize",
    "shrink",
    "trace",
]
