"""Framework-neutral core: channel groups, plans, and surgery on named numpy arrays."""

from .capacity import Capacity, capacity
from .channels import ChannelGroup, Member, Tap
from .class_means import ClassMeans
from .least_squares import refit
from .nodes import Graph
from .plan import GroupPlan, Plan
from .plan_makers import arrange_plan, reorganize_plan
from .recipe import Recipe
from .report import GroupReport, Report
from .solve import find_groups
from .surgery import apply, transform

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
