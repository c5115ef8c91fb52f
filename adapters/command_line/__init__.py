"""The commands of ``rejuvenet``."""
