"""What can be asked of a map's nodes: labels, groups of nodes, samples near a node.

Samples ``X`` come in every form that :class:`.SOFM` takes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from .distances import between, distance_table
from .metrics import has_means, paired, unit_vectors
from .opening import open_samples
from .parameters import integer
from .samples import Samples
from .scan import unmasked


def winners(som, X, sample_weight=None) -> tuple[Samples, NDArray[np.int32]]:
    """The samples, checked, and the node that wins each (N,)."""
    check_is_fitted(som, "codebook_")
    samples = open_samples(som, X, sample_weight, reset=False)
    return samples, som._nearest(samples, 1)[0][:, 0]


def label_map(som, X, y, sample_weight=None) -> NDArray:
    """The most frequent label of the samples that each node wins.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    y : array of shape (N,)
        None: a sample without a label, which has no vote.
    sample_weight : array of shape (N,), optional
        A weight of 2 is a sample that occurs twice.

    Returns
    -------
    labels : object array of shape (rows, columns)
        None where a node wins nothing with a label; the smallest label on ties.

    Raises
    ------
    ValueError
        X, y or the weights do not fit the map or each other.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, label_map
    >>> X = np.array([[0.0], [0.1], [1.0]])
    >>> label_map(SOFM(shape=2).fit(X), X, ["low", "low", "high"])
    array([['low', 'high']], dtype=object)
    """
    counts, names = class_counts(som, X, y, sample_weight)
    labels = np.full(counts.shape[:2], None)
    if len(names):
        some = counts.any(axis=2)
        labels[some] = names[counts[some].argmax(axis=1)]
    return labels


def class_counts(som, X, y, sample_weight=None) -> tuple[NDArray[np.float64], NDArray]:
    """How many samples of every class (or what weight of them) each node wins.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    y : array of shape (N,)
        None: a sample without a label, which is not counted.
    sample_weight : array of shape (N,), optional
        A weight of 2 is a sample that occurs twice.

    Returns
    -------
    counts : float64 array of shape (rows, columns, C)
    classes : array of shape (C,)
        Sorted.

    Raises
    ------
    ValueError
        X, y or the weights do not fit the map or each other.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, class_counts
    >>> X = np.array([[0.0], [0.1], [1.0]])
    >>> counts, classes = class_counts(SOFM(shape=2).fit(X), X, ["low", "low", "high"])
    >>> counts.tolist(), classes.tolist()
    ([[[0.0, 2.0], [1.0, 0.0]]], ['high', 'low'])
    """
    samples, nodes = winners(som, X, sample_weight)
    y = np.asarray(y)
    if y.shape != (samples.n_rows,):
        raise ValueError(
            f"y: expected one label for each of {samples.n_rows} samples, got shape {y.shape}"
        )
    known = np.array([label is not None for label in y.tolist()], bool)
    try:
        names, y = np.unique(y[known], return_inverse=True)
    except TypeError as error:
        raise ValueError(f"y: expected labels that can be sorted: {error}") from None
    C = len(names)
    places = nodes[known].astype(np.int64) * C + y
    weights = None if samples.weights is None else samples.weights[known]
    counts = np.bincount(places, weights=weights, minlength=som.grid_.n_nodes * C)
    return counts.astype(np.float64).reshape(som.grid_.rows, som.grid_.columns, C), names


def activation_map(som, x) -> NDArray:
    """Distances of one sample to all nodes: where on the map it belongs, and where it nearly does.

    Parameters
    ----------
    som : SOFM
        Fitted.
    x : array of shape (D,)

    Returns
    -------
    distances : array of shape (rows, columns)
        A row of :meth:`.SOFM.transform`.

    Raises
    ------
    ValueError
        ``x`` is no such sample.

    Examples
    --------
    >>> from rejuvenet.sofm import SOFM, activation_map
    >>> som = SOFM(shape=2, init=[[0.0], [1.0]], n_epochs=1, sigma=0.01).fit([[0.0], [1.0]])
    >>> activation_map(som, [0.25])
    array([[0.25, 0.75]])
    """
    check_is_fitted(som, "codebook_")
    x = unmasked(x)
    if x.ndim != 1:
        raise ValueError(f"x: expected one sample of shape (D,), got shape {x.shape}")
    samples = open_samples(som, x[None], reset=False)
    table = distance_table(samples, som.codebook_.astype(samples.dtype))
    return table.reshape(som.grid_.rows, som.grid_.columns)


def node_graph(som) -> sparse.csr_matrix:
    """Which nodes touch on the map, and how far apart they are in the data space.

    Parameters
    ----------
    som : SOFM
        Fitted.

    Returns
    -------
    graph : float64 CSR matrix of shape (K, K)
        Distances between codebook vectors; an entry, be it 0, for all nodes that touch.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, node_graph
    >>> X = np.array([[0.0], [1.0], [3.0]])
    >>> node_graph(SOFM(shape=3, init=X, n_epochs=1, sigma=0.01).fit(X)).toarray()
    array([[0., 1., 0.],
           [1., 0., 2.],
           [0., 2., 0.]])
    """
    check_is_fitted(som, "codebook_")
    a, b = som.grid_.touching().T
    K = som.grid_.n_nodes
    if has_means(som.metric):
        apart = between(som.codebook_, a, b)
    else:
        apart = paired(som.codebook_[a], som.codebook_[b], som.metric)
    return sparse.csr_matrix((apart, (a, b)), shape=(K, K))


def u_matrix(som) -> NDArray[np.float64]:
    """Mean distance of every node to those that touch it: ridges part clusters.

    Parameters
    ----------
    som : SOFM
        Fitted.

    Returns
    -------
    distances : float64 array of shape (rows, columns)
        In the samples' units; 0 for a map of one node.

    References
    ----------
    Ultsch & Siemon, "Kohonen's self organizing feature maps for exploratory data analysis",
    INNC 1990.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, u_matrix
    >>> X = np.array([[0.0], [1.0], [5.0], [6.0]])
    >>> u_matrix(SOFM(shape=4, init=X, n_epochs=1, sigma=0.01).fit(X))
    array([[1. , 2.5, 2.5, 1. ]])
    """
    graph = node_graph(som)
    neighbours = np.maximum(np.diff(graph.indptr), 1)
    mean = np.asarray(graph.sum(axis=1)).ravel() / neighbours
    return mean.reshape(som.grid_.rows, som.grid_.columns)


def cluster_nodes(som, n_clusters: int) -> NDArray[np.int64]:
    """Merge nodes into fewer clusters, each connected on the map.

    Ward's criterion on the codebook (with the metric haversine, on unit vectors), restricted to
    nodes that touch.

    Parameters
    ----------
    som : SOFM
        Fitted.
    n_clusters : int
        From 1 to the number of nodes.

    Returns
    -------
    clusters : int array of shape (K,)
        ``clusters[som.predict(X)]`` are the samples' clusters.

    Raises
    ------
    ValueError
        ``n_clusters`` is no such integer.

    References
    ----------
    Vesanto & Alhoniemi, "Clustering of the self-organizing map", IEEE Transactions on Neural
    Networks 11, 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, cluster_nodes
    >>> X = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> clusters = cluster_nodes(SOFM(shape=4).fit(X), 2)
    >>> bool(clusters[0] == clusters[1] != clusters[2] == clusters[3])
    True
    """
    check_is_fitted(som, "codebook_")
    n_clusters = integer("n_clusters", n_clusters, 1, som.grid_.n_nodes)
    if som.grid_.n_nodes == 1:
        return np.zeros(1, np.int64)
    from sklearn.cluster import AgglomerativeClustering

    touch = node_graph(som)
    touch.data[:] = 1.0  # equal nodes touch as well, at distance 0
    ward = AgglomerativeClustering(n_clusters, connectivity=touch)
    codebook = som.codebook_.astype(np.float64)
    return ward.fit_predict(unit_vectors(codebook) if som.metric == "haversine" else codebook)


def nearest_samples(som, X, node: int, n: int = 5) -> NDArray[np.int64]:
    """Rows of ``X`` nearest to a node, nearest first.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    node : int
        Row of ``codebook_``.
    n : int, default=5
        How many; all where X has fewer.

    Returns
    -------
    rows : int array of shape (n,)

    Raises
    ------
    ValueError
        ``node`` or ``n`` is no such integer, or X does not fit the map.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, nearest_samples
    >>> X = np.array([[0.0], [0.9], [1.0]])
    >>> nearest_samples(SOFM(shape=2, init=[[0.0], [1.0]], sigma=0.01).fit(X), X, 1, n=2)
    array([1, 2])
    """
    check_is_fitted(som, "codebook_")
    node, n = integer("node", node, 0, som.grid_.n_nodes - 1), integer("n", n, 1)
    samples = open_samples(som, X, reset=False)
    codebook = som.codebook_[[node]].astype(samples.dtype)
    distances = np.concatenate([d[:, 0] for d, _ in samples.distances(codebook)])
    return np.argsort(distances, kind="stable")[:n]
