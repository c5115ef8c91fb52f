"""A self-organizing feature map as a scikit-learn estimator."""

from .estimator import SOFM

__all__ = ["SOFM"]
