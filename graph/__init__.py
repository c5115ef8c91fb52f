"""Framework-neutral core: channel groups, plans, and surgery on named numpy arrays."""

from .change.least_squares import refit
from .change.surgery import apply, transform
from .find.channels import ChannelGroup, Member, Tap
from .find.nodes import Graph
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
    "Graph",
    "GroupPlan",
    "GroupReport",
    "Member",
    "Plan",
    "Recipe",
    "Report",
    "Tap",
    "apply",
    "arrange_plan",
    "capacity",
    "find_groups",
    "refit",
    "reorganize_plan",
    "transform",
]
