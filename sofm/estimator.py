"""The estimator :class:`SOFM`: parameters, validation and the loop over epochs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin
from sklearn.base import TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from . import initialization
from .batch import LEVELS, WORTH_PRUNING, Sweep, n_threads
from .grid import Grid
from .neighborhood import decayed, smooth, updated
from .search import grid_constant

SAMPLE_ROWS = 8192


class SOFM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Self-organizing feature map."""

    def __init__(
        self, shape=(2, 2), *, topology="rectangular", periodic=False, neighborhood="gaussian",
        sigma=None, decay="geometric", init="pca", n_epochs=20, algorithm="batch",
        tol=0.0, random_state=None, n_jobs=None, verbose=0,
    ):  # fmt: skip
        self.shape = shape
        self.topology = topology
        self.periodic = periodic
        self.neighborhood = neighborhood
        self.sigma = sigma
        self.decay = decay
        self.init = init
        self.n_epochs = n_epochs
        self.algorithm = algorithm
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _grid(self):
        rows, columns = (1, self.shape) if np.isscalar(self.shape) else self.shape
        return Grid(int(rows), int(columns), self.topology, bool(self.periodic))

    def _sigmas(self, grid):
        if self.sigma is None:
            return max(grid.rows, grid.columns) / 2, 0.5
        if np.isscalar(self.sigma):
            return float(self.sigma), min(0.5, float(self.sigma))
        return tuple(map(float, self.sigma))

    def _check_data(self, X, reset):
        X = validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], order="C",
            ensure_all_finite=False,
        )  # fmt: skip
        good = np.isfinite(X).all(axis=1)
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise ValueError(
                f"expected finite samples, got NaN or infinity (inf) in row {row}: "
                "remove the row or fill the value"
            )
        return X

    def _sweep(self, X, weights, codebook, directions, pool):
        centre = X[np.linspace(0, len(X) - 1, min(len(X), SAMPLE_ROWS)).astype(int)].mean(axis=0)
        centre = centre.astype(X.dtype)
        low, high = X.min(axis=0), X.max(axis=0)
        reach = float(max(np.abs(low - centre).max(), np.abs(high - centre).max(),
                          np.abs(codebook - centre).max()))
        heavy = 1.0 if weights is None else float(weights.max())
        size = float(max(np.abs(low).max(), np.abs(high).max()))
        grids = (
            grid_constant(size * heavy, len(X)),
            grid_constant(heavy, len(X)),
            grid_constant(4 * np.sqrt(X.shape[1]) * heavy, len(X)),
        )
        return Sweep(X, weights, centre, reach, grids, directions, n_threads(self.n_jobs), pool)

    def fit(self, X, y=None, sample_weight=None):
        """Train the map."""
        X = self._check_data(X, reset=True)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, dtype=np.float64,
                                           ensure_non_negative=True)
        grid = self._grid()
        random = check_random_state(self.random_state)
        rows = np.linspace(0, len(X) - 1, min(len(X), SAMPLE_ROWS)).astype(int)
        some = X[rows]
        some_weights = None if weights is None else weights[rows]
        prune = X.shape[1] >= 32 and X.size * grid.n_nodes >= WORTH_PRUNING
        q = max([lv for lv in LEVELS if lv <= X.shape[1] // 2], default=0) if prune else 0
        mean, directions, deviations = initialization.principal_components(
            some, some_weights, max(q, 2))
        if isinstance(self.init, str):
            if self.init == "pca":
                codebook = initialization.pca(grid, mean, directions, deviations)
            elif self.init == "sample":
                codebook = initialization.sample(X, weights, grid.n_nodes, random)
            elif self.init == "random":
                codebook = initialization.uniform(X.min(0), X.max(0), grid.n_nodes, random)
            else:
                raise ValueError(f"init: expected 'pca', 'sample', 'random' or an array, "
                                 f"got {self.init!r}")
        else:
            codebook = np.reshape(self.init, (grid.n_nodes, X.shape[1]))
        codebook = np.ascontiguousarray(codebook, dtype=X.dtype)
        start, end = self._sigmas(grid)
        threads = n_threads(self.n_jobs)
        pooled = ThreadPoolExecutor(threads - 1) if threads > 1 else nullcontext()
        with threadpool_limits(1, "blas"), pooled as pool:
            sweep = self._sweep(X, weights, codebook, directions if q else None, pool)
            total = len(X) if weights is None else weights.sum()
            self.history_ = []
            for epoch in range(self.n_epochs):
                sigma = decayed(start, end, epoch, self.n_epochs, self.decay)
                sums, counts, error = sweep.epoch(codebook)
                codebook = updated(codebook,
                                   *smooth(grid, self.neighborhood, sigma, sums, counts))
                self.history_.append(
                    {"epoch": epoch, "sigma": sigma, "quantization_error": error / total})
            nearest, distances = sweep.two_nearest(codebook)
        self.codebook_ = codebook
        self.labels_ = np.ascontiguousarray(nearest[:, 0])
        self.n_iter_ = len(self.history_)
        self.quantization_error_ = float(np.average(distances, weights=weights))
        apart = ~grid.adjacent(nearest[:, 0], nearest[:, 1])
        self.topographic_error_ = float(np.average(apart, weights=weights))
        self._n_features_out = grid.n_nodes
        return self

    def predict(self, X):
        """Best matching unit of every sample."""
        check_is_fitted(self)
        X = self._check_data(X, reset=False)
        sweep = self._sweep(X, None, self.codebook_.astype(X.dtype), None, None)
        sweep.threads = 1
        sweep.epoch(self.codebook_.astype(X.dtype), update=False)
        return sweep.labels

    def transform(self, X):
        """Distances to all nodes."""
        check_is_fitted(self)
        from sklearn.metrics.pairwise import euclidean_distances

        X = self._check_data(X, reset=False)
        return euclidean_distances(X, self.codebook_.astype(X.dtype))

    def score(self, X, y=None):
        """Negative quantization error."""
        labels = self.predict(X)
        return -float(np.linalg.norm(np.asarray(X) - self.codebook_[labels], axis=1).mean())
