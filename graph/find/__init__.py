"""From structural nodes to channel groups: what must move together, and what may not move."""
