"""What can be asked of a map's nodes: labels, groups of nodes, samples near a node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_is_fitted


def label_map(som, X, y) -> NDArray:
    """The most frequent label of the samples that each node wins.

    Parameters
    ----------
    som : SOFM
    X : array of shape (N, D)
    y : array of shape (N,)

    Returns
    -------
    labels : object array of shape (rows, columns)
        None where a node wins nothing; the smallest label on ties.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, label_map
    >>> X = np.array([[0.0], [0.1], [1.0]])
    >>> label_map(SOFM(shape=2).fit(X), X, ["low", "low", "high"])
    array([['low', 'high']], dtype=object)
    """
    nodes = som.predict(X)
    names, y = np.unique(np.asarray(y), return_inverse=True)
    if len(y) != len(nodes):
        raise ValueError(f"expected one label for each of {len(nodes)} samples, got {len(y)}")
    votes = np.zeros((som.grid_.n_nodes, len(names)), np.int64)
    np.add.at(votes, (nodes, y), 1)
    labels = names[votes.argmax(axis=1)].astype(object)
    labels[votes.sum(axis=1) == 0] = None
    return labels.reshape(som.grid_.rows, som.grid_.columns)


def node_graph(som) -> sparse.csr_matrix:
    """Adjacency of nodes that touch on the map, of shape (K, K), with codebook distances."""
    check_is_fitted(som, "codebook_")
    every = np.arange(som.grid_.n_nodes)
    touch = som.grid_.adjacent(every[:, None], every[None, :])
    np.fill_diagonal(touch, False)
    a, b = np.nonzero(touch)
    apart = np.linalg.norm(som.codebook_[a] - som.codebook_[b], axis=1)
    return sparse.csr_matrix((apart, (a, b)), shape=touch.shape)


def cluster_nodes(som, n_clusters: int) -> NDArray[np.int64]:
    """Merge nodes into fewer clusters, each connected on the map (Vesanto & Alhoniemi 2000).

    Ward's criterion on the codebook, restricted to nodes that touch.

    Returns
    -------
    clusters : int array of shape (K,)
        ``clusters[som.predict(X)]`` are the samples' clusters.

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
    if not 1 <= n_clusters <= som.grid_.n_nodes:
        raise ValueError(
            f"n_clusters: expected between 1 and {som.grid_.n_nodes} nodes, got {n_clusters!r}"
        )
    if som.grid_.n_nodes == 1:
        return np.zeros(1, np.int64)
    from sklearn.cluster import AgglomerativeClustering

    touch = node_graph(som)
    touch.data[:] = 1.0  # equal nodes touch as well, at distance 0
    ward = AgglomerativeClustering(n_clusters, connectivity=touch)
    return ward.fit_predict(som.codebook_.astype(np.float64))


def nearest_samples(som, X, node: int, n: int = 5) -> NDArray[np.int64]:
    """Rows of ``X`` nearest to a node, nearest first.

    Parameters
    ----------
    node : int
        Row of ``codebook_``.
    n : int

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, nearest_samples
    >>> X = np.array([[0.0], [0.9], [1.0]])
    >>> nearest_samples(SOFM(shape=2, init=[[0.0], [1.0]], sigma=0.01).fit(X), X, 1, n=2)
    array([1, 2])
    """
    check_is_fitted(som, "codebook_")
    if not 0 <= node < som.grid_.n_nodes:
        raise ValueError(f"node: expected between 0 and {som.grid_.n_nodes - 1}, got {node!r}")
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n!r}")
    X = np.asarray(X)
    step = max(1, (16 << 20) // (8 * som.grid_.n_nodes))
    distances = np.concatenate(
        [som.transform(X[i : i + step])[:, node] for i in range(0, len(X), step)]
    )
    return np.argsort(distances, kind="stable")[:n]
