r"""Maps that predict: classes and numbers from what the nodes have won.

With ``S_b`` the sum of the targets (one column for each class, or the numbers) and ``n_b`` the
number of the samples that node ``b`` wins, a node answers with the mean of its neighbourhood,

.. math::  y_k = \frac{\sum_b h(|v_k - v_b|) S_b}{\sum_b h(|v_k - v_b|) n_b} ,
           \qquad h(d) = e^{-d^2 / 2 \sigma^2} ,

which is eq. 8 for the targets: a node that has won nothing answers as its neighbours do.  Where
``h`` vanishes everywhere, it answers as the nearest nodes on the map that have won anything.

The map learns features and targets side by side (the "XY-fused network", ``xyf`` of the R package
kohonen): targets are further columns, scaled so that they make a share of the variance that
``target_weight`` says.  New samples have no targets, and find their node by their features; the
sums are of samples that found theirs so.

References
----------
Melssen, Wehrens & Buydens, "Supervised Kohonen networks for classification problems",
Chemometrics and Intelligent Laboratory Systems 83, 2006.

Riese, Keller & Hinz, "Supervised and semi-supervised self-organizing maps for regression and
classification focusing on hyperspectral data", Remote Sensing 12, 2020 (susi).
"""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_y, check_is_fitted, column_or_1d

from .estimator import SOFM
from .grid import Grid
from .initialization import spread
from .metrics import has_means
from .neighborhood import smooth
from .opening import open_samples
from .parameters import grid_of, initial_array, wrong
from .samples import Samples
from .size import suggest_shape
from .threads import threads_for


def neighborhood_means(grid: Grid, sigma: float, sums: NDArray, counts: NDArray) -> NDArray:
    """``y`` of the top of this module.

    Parameters
    ----------
    grid : Grid
    sigma : float
        In nodes.
    sums : float64 array of shape (K, T)
    counts : float64 array of shape (K,)
        Not all zero.

    Returns
    -------
    means : float64 array of shape (K, T)

    Examples
    --------
    >>> import numpy as np
    >>> from rejuvenet.sofm import Grid
    >>> from rejuvenet.sofm.supervised import neighborhood_means
    >>> sums, counts = np.array([[4.0], [0.0], [0.0]]), np.array([2.0, 0.0, 0.0])
    >>> neighborhood_means(Grid(1, 3), 0.01, sums, counts).ravel()  # exp(-5000) is 0
    array([2., 2., 2.])
    """
    numerator, denominator = smooth(grid, "gaussian", sigma, sums, counts)
    # Below the normal numbers a quotient has lost its digits.
    alone = np.flatnonzero(denominator[:, 0] < np.finfo(np.float64).tiny * 2.0**60)
    means = numerator / np.where(denominator > 0, denominator, 1)
    won = np.flatnonzero(counts)
    for k in alone:
        apart = grid.distances([k], won)[0]
        near = won[apart <= apart.min() + 1e-9]
        means[k] = sums[near].sum(axis=0) / counts[near].sum()
    return means


class _Supervised(BaseEstimator):
    """What both estimators have in common."""

    def __init__(self, som=None, *, sigma=0.5, target_weight=0.5):
        self.som = som
        self.sigma = sigma
        self.target_weight = target_weight

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.som is None or has_means(self.som.metric)
        tags.input_tags.allow_nan = self.som is not None and self.som.missing == "ignore"
        tags.target_tags.required = True
        return tags

    def _learn(self, X, Y: NDArray, sample_weight) -> tuple[NDArray, NDArray, dict]:
        """Sums and means of the nodes, and attributes; ``Y`` (N, T) are float64 targets."""
        if not (self.som is None or isinstance(self.som, SOFM)):
            raise wrong("som", "a SOFM or None", self.som)
        if not (isinstance(self.sigma, Real) and 0 < float(self.sigma) < np.inf):
            raise wrong("sigma", "a number > 0", self.sigma)
        share = self.target_weight
        if not (isinstance(share, Real) and 0 <= float(share) < 1):
            raise wrong("target_weight", "a number from 0 to less than 1", share)
        som = SOFM(suggest_shape(X, sample_weight)) if self.som is None else clone(self.som)
        samples = open_samples(som, X, sample_weight, reset=True)
        if len(Y) != samples.n_rows:
            raise ValueError(
                f"y: expected targets of {samples.n_rows} samples, got those of {len(Y)}"
            )
        if share:
            _train_with_targets(som, samples, Y, float(share), is_classifier(self))
        else:
            som.fit(X, sample_weight=sample_weight)
        weights = np.ones(len(Y)) if samples.weights is None else samples.weights
        places = som.labels_, np.arange(len(Y))
        of_nodes = sparse.csr_array((weights, places), shape=(som.grid_.n_nodes, len(Y)))
        sums, counts = of_nodes @ Y, of_nodes.sum(axis=1)
        names = ("n_features_in_", "feature_names_in_")
        learned = {name: getattr(som, name) for name in names if hasattr(som, name)}
        means = neighborhood_means(som.grid_, float(self.sigma), sums, counts)
        return sums, means, {"som_": som, **learned}

    def _of_nodes(self, X, table: str) -> NDArray:
        """What the nodes of samples say: rows of an attribute (K, ...)."""
        check_is_fitted(self, "som_")
        return getattr(self, table)[np.asarray(self.som_.predict(X))]


def _train_with_targets(som: SOFM, samples: Samples, Y: NDArray, share: float, alike: bool) -> None:
    """Train on features and targets side by side; of the nodes keep the features."""
    if not has_means(som.metric):
        raise wrong("target_weight", f"0 with metric={som.metric!r}, which has no means", share)
    D, some, grid = samples.n_features, samples.for_training(), grid_of(som)
    weights = samples.weights
    Y = np.ldexp(Y, -np.frexp(np.abs(Y).max())[1])  # whose squares neither overflow nor vanish
    mean = np.average(Y, axis=0, weights=weights)
    deviation = np.sqrt(np.average((Y - mean) ** 2, axis=0, weights=weights))
    if alike:
        deviation[:] = np.linalg.norm(deviation)
    else:  # columns in units of their own
        deviation *= np.sqrt(len(deviation))
    scale = spread(*some.some()) * np.sqrt(share / (1 - share)) / np.where(deviation, deviation, 1)
    targets = ((Y - mean) * scale).astype(samples.dtype)
    init = som.init
    if not isinstance(init, str):
        start = initial_array(init, grid, D, samples.dtype)
        init = np.hstack([start, np.zeros((grid.n_nodes, Y.shape[1]), samples.dtype)])

    def blocks():
        first = 0
        for X, _ in samples.pieces():
            yield np.hstack([X, targets[first : first + len(X)]])
            first += len(X)

    # Rows of the metrics cosine and correlation come scaled to length 1.
    both = clone(som).set_params(metric="euclidean", init=init)
    both.fit(blocks, sample_weight=weights)
    som.__dict__.update({k: v for k, v in vars(both).items() if k not in vars(som)})
    som._set_codebook(np.ascontiguousarray(both.codebook_[:, :D]))
    som._sums, counts = both._sums, both._counts
    if som._sums is not None:
        som._sums, som._counts = som._sums[:, :D], counts[:, :D] if counts.ndim == 2 else counts
    with threads_for(som.n_jobs, some, grid.n_nodes) as threads:
        some.begin(som.codebook_, threads)
        som._finish(some)


class SOMClassifier(ClassifierMixin, _Supervised):
    r"""Classes from a map: those of the samples that a node and its neighbours have won.

    See the top of :mod:`.supervised` for the method.

    Parameters
    ----------
    som : SOFM or None, default=None
        The map, which is cloned; None is one of :func:`suggest_shape`.
    sigma : float, default=0.5
        Width of the neighbourhood over which class counts are smoothed, in nodes.
    target_weight : float, default=0.5
        Share of the variance that classes make when the map is trained, from 0 (the map sees the
        features alone) to less than 1.  Metrics without means take 0 only.

    Attributes
    ----------
    som_ : SOFM
        The trained map, of the features.
    classes_ : array of shape (C,)
    class_counts_ : float64 array of shape (K, C)
        Samples (or their weights) of each class that each node wins.
    node_probabilities_ : float64 array of shape (K, C)
        Smoothed shares; rows add up to 1.
    n_features_in_ : int
    feature_names_in_ : array of shape (D,)
        If X was a data frame.

    Notes
    -----
    ``X`` comes in every form that :class:`SOFM` takes; answers are arrays.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from rejuvenet.sofm import SOFM, SOMClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = SOMClassifier(SOFM((15, 15))).fit(X[:1000], y[:1000])
    >>> bool(model.score(X[1000:], y[1000:]) > 0.9)
    True
    """

    def fit(self, X, y, sample_weight=None):
        """Train the map and count classes.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)
        y : array of shape (N,)
        sample_weight : array of shape (N,), optional
            A weight of 2 is a sample that occurs twice.

        Returns
        -------
        self : SOMClassifier

        Raises
        ------
        ValueError
            A parameter is wrong, or X, y and the weights do not fit each other.

        Examples
        --------
        >>> from rejuvenet.sofm import SOFM, SOMClassifier
        >>> model = SOMClassifier(SOFM(2)).fit([[0.0], [0.1], [1.0]], ["low", "low", "high"])
        >>> model.predict([[0.9]])
        array(['high'], dtype='<U4')
        """
        if y is None:
            raise ValueError("SOMClassifier requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        classes, codes = np.unique(y, return_inverse=True)
        counts, shares, learned = self._learn(X, np.eye(len(classes))[codes], sample_weight)
        self.class_counts_, self.node_probabilities_, self.classes_ = counts, shares, classes
        self.__dict__.update(learned)
        return self

    def predict_proba(self, X):
        """Probabilities of the classes: of the node that wins the sample.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)

        Returns
        -------
        probabilities : float64 array of shape (N, C)

        Raises
        ------
        ValueError
            X does not fit the map.

        Examples
        --------
        >>> from rejuvenet.sofm import SOFM, SOMClassifier
        >>> model = SOMClassifier(SOFM(2)).fit([[0.0], [0.1], [1.0]], ["low", "low", "high"])
        >>> model.predict_proba([[0.9]]).round(2)  # of "high" and "low"
        array([[0.79, 0.21]])
        """
        return self._of_nodes(X, "node_probabilities_")

    def predict(self, X):
        """The most probable class.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)

        Returns
        -------
        labels : array of shape (N,)
            The first of ``classes_`` on ties.

        Raises
        ------
        ValueError
            X does not fit the map.
        """
        most = self.predict_proba(X).argmax(axis=1)
        return self.classes_[most]


class SOMRegressor(RegressorMixin, _Supervised):
    r"""Numbers from a map: means of the samples that a node and its neighbours have won.

    See the top of :mod:`.supervised` for the method.

    Parameters
    ----------
    som : SOFM or None, default=None
        The map, which is cloned; None is one of :func:`suggest_shape`.
    sigma : float, default=0.5
        Width of the neighbourhood over which means are taken, in nodes.
    target_weight : float, default=0.5
        Share of the variance that targets make when the map is trained, from 0 (the map sees the
        features alone) to less than 1.  Metrics without means take 0 only.

    Attributes
    ----------
    som_ : SOFM
        The trained map, of the features.
    node_values_ : float64 array of shape (K,) or (K, T)
        What every node answers.
    n_features_in_ : int
    feature_names_in_ : array of shape (D,)
        If X was a data frame.

    Notes
    -----
    ``X`` comes in every form that :class:`SOFM` takes; answers are arrays.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from rejuvenet.sofm import SOFM, SOMRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SOMRegressor(SOFM((4, 5)), sigma=1.0).fit(X[:300], y[:300])
    >>> bool(model.score(X[300:], y[300:]) > 0.3)
    True
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.single_output = True
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Train the map and take means.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)
        y : array of shape (N,) or (N, T)
        sample_weight : array of shape (N,), optional
            A weight of 2 is a sample that occurs twice.

        Returns
        -------
        self : SOMRegressor

        Raises
        ------
        ValueError
            A parameter is wrong, or X, y and the weights do not fit each other.

        Examples
        --------
        >>> from rejuvenet.sofm import SOFM, SOMRegressor
        >>> model = SOMRegressor(SOFM(2), sigma=0.1).fit([[0.0], [0.1], [1.0]], [1.0, 3.0, 7.0])
        >>> model.predict([[0.2]])
        array([2.])
        """
        if y is None:
            raise ValueError("SOMRegressor requires y to be passed, but the target y is None")
        y = _check_y(y, multi_output=True, y_numeric=True, estimator=self)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        Y = y.reshape(len(y), -1).astype(np.float64)
        _, means, learned = self._learn(X, Y, sample_weight)
        self.node_values_ = means[:, 0] if y.ndim == 1 else means
        self.__dict__.update(learned)
        return self

    def predict(self, X):
        """The value of the node that wins the sample.

        Parameters
        ----------
        X : array, CSR matrix, dask array or blocks, of shape (N, D)

        Returns
        -------
        values : float64 array of shape (N,) or (N, T)

        Raises
        ------
        ValueError
            X does not fit the map.
        """
        return self._of_nodes(X, "node_values_")
