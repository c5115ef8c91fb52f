"""Framework-neutral core: channel groups, plans, and surgery on named numpy arrays.

A network is a :class:`Graph` of structural nodes, whose kinds stand here as well, with the
module :mod:`composites <rejuvenet.graph.find.composites>` of what takes several of them: rules for
operators are written in these.

Examples
--------
Two layers without any framework: their hidden channels in another order, and the same function.

>>> import numpy as np
>>> from rejuvenet.graph import Contraction, Elementwise, Graph, apply, arrange_plan, find_groups
>>> graph = Graph(inputs=["x"], outputs=["y"], weights={"a": "first", "b": "second"})
>>> for name, shape in {"x": (5, 3), "a": (8, 3), "h": (5, 8), "r": (5, 8), "b": (2, 8),
...                     "y": (5, 2)}.items():
...     _ = graph.add_tensor(name, shape)
>>> graph.nodes += [
...     Contraction(("x", "a"), "h", ("n", "i"), ("o", "i"), ("n", "o")),
...     Elementwise(("h",), "r"),
...     Contraction(("r", "b"), "y", ("n", "i"), ("o", "i"), ("n", "o"))]
>>> rng = np.random.default_rng(0)
>>> weights = {"first": rng.normal(size=(8, 3)), "second": rng.normal(size=(2, 8))}
>>> x = rng.normal(size=(5, 3))
>>> before = np.maximum(x @ weights["first"].T, 0) @ weights["second"].T
>>> apply(arrange_plan(find_groups(graph), "random"), weights)
['first', 'second']
>>> after = np.maximum(x @ weights["first"].T, 0) @ weights["second"].T
>>> bool(np.allclose(before, after))
True
"""

from .change.least_squares import refit
from .change.surgery import apply, transform
from .find import composites
from .find.channels import ChannelGroup, Member, Tap
from .find.nodes import (
    Concat,
    Contraction,
    Elementwise,
    Expand,
    Freeze,
    Gather,
    Graph,
    Opaque,
    Pad,
    PerChannel,
    Positional,
    Reduce,
    Reshape,
    Transpose,
    Unlabelled,
)
from .find.solve import find_groups
from .measure.class_means import ClassMeans
from .plan.capacity import Capacity, capacity
from .plan.plan import GroupPlan, Plan
from .plan.planning import arrange_plan, reorganize_plan
from .plan.recipe import Recipe
from .report import GroupReport, Report

__all__ = [
    "Capacity",
    "ChannelGroup",
    "ClassMeans",
    "Concat",
    "Contraction",
    "Elementwise",
    "Expand",
    "Freeze",
    "Gather",
    "Graph",
    "GroupPlan",
    "GroupReport",
    "Member",
    "Opaque",
    "Pad",
    "PerChannel",
    "Plan",
    "Positional",
    "Recipe",
    "Reduce",
    "Report",
    "Reshape",
    "Tap",
    "Transpose",
    "Unlabelled",
    "apply",
    "arrange_plan",
    "capacity",
    "composites",
    "find_groups",
    "refit",
    "reorganize_plan",
    "transform",
]
