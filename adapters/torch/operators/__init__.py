"""ATen operators as structural nodes: the one table of the PyTorch adapter, complete.

The rules stand in files by what they do to axes; importing this module enters them all.
"""

from __future__ import annotations

from . import contractions, normalizations, positional, recurrent, reductions, shapes  # noqa: F401
from .pointwise import elementwise
from .registration import REGISTERED, register_operator
from .table import RULES, Rule, Value

__all__ = ["REGISTERED", "RULES", "Rule", "Value", "elementwise", "register_operator"]
