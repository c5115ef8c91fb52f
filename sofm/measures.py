r"""How well a map's nodes stand for the samples; of its order see :mod:`.order`.

===========================  ======================================================================
:func:`quantization_error`   mean distance to the node; Kohonen 2001
:func:`distortion`           mean of ``sum_k h(|v_b - v_k|) d(x, w_k)^2``, which the batch rule
                             nearly minimizes; Kohonen 2001, Heskes 1999
:func:`explained_variance`   ``1 - sum |x - w_b|^2 / sum |x - mean|^2``
:func:`hit_histogram`        samples per node
===========================  ======================================================================

All take a fitted :class:`.SOFM` and samples in every form that it takes; distances are
those of :meth:`.SOFM.transform`.  A weight of 2 is a sample that occurs twice.
"""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from .distances import power_of_two
from .metrics import has_means
from .neighborhood import NEIGHBORHOODS
from .nodes import winners
from .opening import checked_weights, open_samples
from .parameters import wrong
from .samples import Samples, check_length


def quantization_error(som, X, sample_weight=None) -> float:
    """Mean distance of samples to their best matching units.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    sample_weight : array of shape (N,), optional

    Returns
    -------
    error : float
        In the samples' units; ``-som.score(X)``.

    Raises
    ------
    ValueError
        X or the weights do not fit the map or each other.

    References
    ----------
    Kohonen, "Self-Organizing Maps", 3rd edition, Springer, 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, quantization_error
    >>> X = np.array([[0.0], [1.0]])
    >>> som = SOFM(shape=2, init=X, n_epochs=1, sigma=0.01).fit(X)
    >>> quantization_error(som, X + 0.25)
    0.25
    """
    return 0.0 - som.score(X, sample_weight=sample_weight)


def distortion(som, X, sigma: float = 0.5, sample_weight=None) -> float:
    """Mean over the samples of their squared distances to all nodes, weighted by ``h``.

    Parameters
    ----------
    som : SOFM
        Fitted; ``h`` is its neighbourhood.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
    sigma : float, default=0.5
        Width of the neighbourhood, in nodes.
    sample_weight : array of shape (N,), optional

    Returns
    -------
    distortion : float
        In the samples' units, squared.

    Raises
    ------
    ValueError
        ``sigma`` is not a number > 0, or X or the weights do not fit the map or each other.

    References
    ----------
    Heskes, "Energy functions for self-organizing maps", 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, distortion
    >>> X = np.array([[0.0], [1.0]])
    >>> som = SOFM(shape=2, init=X, n_epochs=1, sigma=0.01, neighborhood="bubble").fit(X)
    >>> distortion(som, X + 0.25), distortion(som, X + 0.25, sigma=1.0)
    (0.0625, 1.125)
    """
    check_is_fitted(som, "codebook_")
    if not (isinstance(sigma, Real) and 0 < float(sigma) < np.inf):
        raise wrong("sigma", "a number > 0", sigma)
    samples = open_samples(som, X, sample_weight, reset=False)
    h = NEIGHBORHOODS[som.neighborhood]
    total = 0.0
    for d, weights in samples.distances(som.codebook_.astype(samples.dtype)):
        won, b = np.unique(d.argmin(axis=1), return_inverse=True)
        H = h(som.grid_.distances(won), sigma)
        of_each = np.einsum("nk,nk,nk->n", H[b], d, d)
        total += float(of_each.sum() if weights is None else of_each @ weights)
    return total / samples.total_weight


def _within_and_around(samples: Samples, codebook: NDArray, nodes: NDArray):
    """``sum |x - w_b|^2``, ``sum |x - mean|^2`` (one unit for both), and what rounding leaves.

    The origin is a sample, so that differences of constant samples vanish exactly.
    """
    own = 0 if samples.weights is None else int(np.argmax(samples.weights > 0))
    origin = samples.take(np.array([own]))[0].astype(np.float64)
    ends = samples.range.low, samples.range.high, codebook
    scale = np.ldexp(1.0, power_of_two(max(float(np.abs(e - origin).max()) for e in ends)))
    w = (codebook - origin) * scale
    sums, counts = np.zeros(len(origin)), np.zeros(len(origin))

    def passed():
        for X, weights in samples.slices(samples.n_features):
            yield (X - origin) * scale, np.ones(len(X)) if weights is None else weights

    for x, m in passed():
        sums += m @ np.nan_to_num(x)
        counts += m @ ~np.isnan(x)
    mean = sums / np.where(counts > 0, counts, 1)
    within = around = 0.0
    first = 0
    for x, m in passed():
        own_node = w[nodes[first : first + len(x)]]
        within += float(m @ np.nansum((x - own_node) ** 2, axis=1))
        around += float(m @ np.nansum((x - mean) ** 2, axis=1))
        first += len(x)
    digit = 4 * np.finfo(samples.dtype).eps * np.abs(codebook).max() * scale
    return within, around, digit**2 * samples.n_features * samples.total_weight


def explained_variance(som, X, sample_weight=None) -> float:
    """Share of the samples' variance that their nodes account for (k-means' measure).

    Parameters
    ----------
    som : SOFM
        Fitted.  With its metric cosine or correlation, samples are first scaled to length 1.
    X : array, CSR matrix, dask array or blocks, of shape (N, D)
        Values that are missing count neither here nor there.
    sample_weight : array of shape (N,), optional

    Returns
    -------
    share : float
        At most 1.  Of samples that are all the same: 1 if the nodes are on them, else 0, as
        scikit-learn's ``r2_score``.

    Raises
    ------
    ValueError
        X or the weights do not fit the map or each other, or its metric has no means.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, explained_variance
    >>> X = np.array([[0.0], [2.0], [10.0], [12.0]])
    >>> som = SOFM(shape=2, init=[[1.0], [11.0]], n_epochs=1, sigma=0.01).fit(X)
    >>> round(explained_variance(som, X), 4)
    0.9615
    """
    if not has_means(som.metric):
        raise wrong("metric", "one that has means, of which variance is measured", som.metric)
    samples, nodes = winners(som, X, sample_weight)
    within, around, rounding = _within_and_around(
        samples, som.codebook_.astype(samples.dtype), nodes
    )
    if around == 0:
        return 1.0 if within <= rounding else 0.0
    return 1 - within / around


def hit_histogram(som, X=None, sample_weight=None) -> NDArray[np.float64]:
    """Samples (or their weights) per node.

    Parameters
    ----------
    som : SOFM
        Fitted.
    X : array, CSR matrix, dask array or blocks, of shape (N, D), optional
        The samples of the last fit unless given.
    sample_weight : array of shape (N,), optional

    Returns
    -------
    hits : float64 array of shape (rows, columns)

    Raises
    ------
    ValueError
        X or the weights do not fit the map or each other.

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import SOFM, hit_histogram
    >>> hit_histogram(SOFM(shape=2).fit(np.array([[0.0], [0.9], [1.0]])))
    array([[1., 2.]])
    """
    check_is_fitted(som, "codebook_")
    if X is None:
        nodes, weights = som.labels_, checked_weights(sample_weight)
        check_length(weights, len(nodes))
    else:
        samples, nodes = winners(som, X, sample_weight)
        weights = samples.weights
    hits = np.bincount(nodes, weights=weights, minlength=som.grid_.n_nodes)
    return hits.astype(np.float64).reshape(som.grid_.rows, som.grid_.columns)
