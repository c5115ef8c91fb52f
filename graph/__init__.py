"""Framework-neutral core: channel groups, plans, and surgery on named numpy arrays.

A network is a :class:`Graph` of structural nodes, whose kinds stand here as well, with the
module :mod:`composites <rejuvenet.graph.find.composites>` of what takes several of them: rules for
operators are written in these.
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
