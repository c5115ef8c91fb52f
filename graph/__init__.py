"""Framework-neutral core: channel groups, plans, and surgery on named numpy arrays."""

from .channels import ChannelGroup, Member, Tap
from .nodes import Graph

__all__ = ["ChannelGroup", "Graph", "Member", "Tap"]
