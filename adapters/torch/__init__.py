"""PyTorch: trace a module, collect activations, arrange, reorganize.

Parameters keep their identity: optimizers, schedules, wrappers and checkpoints stay valid.
"""

from .collect import collect
from .operators import Value, register_operator
from .reorganize import arrange, reorganize
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
    "trace",
]
