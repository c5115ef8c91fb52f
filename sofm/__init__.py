"""A self-organizing feature map as a scikit-learn estimator: fast, exact, out of core.

Stable names: those below, the constructor of :class:`SOFM`, its methods and its attributes with a
trailing underscore, and the functions of :mod:`rejuvenet.sofm.plots` (which needs matplotlib).

Examples
--------
>>> from sklearn.datasets import load_digits
>>> from rejuvenet.sofm import SOFM, label_map
>>> X, y = load_digits(return_X_y=True)
>>> som = SOFM(shape=(10, 10)).fit(X)
>>> label_map(som, X, y).shape
(10, 10)
"""

from .estimator import SOFM
from .grid import Grid
from .measures import distortion, explained_variance, hit_histogram, quantization_error
from .nodes import (
    activation_map,
    class_counts,
    cluster_nodes,
    label_map,
    nearest_samples,
    node_graph,
    u_matrix,
)
from .order import (
    neighborhood_preservation,
    topographic_error,
    topographic_product,
    trustworthiness,
)
from .size import suggest_shape
from .supervised import SOMClassifier, SOMRegressor

__all__ = [
    "SOFM",
    "Grid",
    "SOMClassifier",
    "SOMRegressor",
    "activation_map",
    "class_counts",
    "cluster_nodes",
    "distortion",
    "explained_variance",
    "hit_histogram",
    "label_map",
    "nearest_samples",
    "neighborhood_preservation",
    "node_graph",
    "quantization_error",
    "suggest_shape",
    "topographic_error",
    "topographic_product",
    "trustworthiness",
    "u_matrix",
]
