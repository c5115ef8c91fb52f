"""From what a user passes as ``X`` to :class:`.samples.Samples`: where data is checked.

A dense array or data frame, a memory map, a CSR matrix, blocks (a list of 2-D arrays, or anything
that can be iterated over again, or a function returning an iterator), or a dask array.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from sklearn.preprocessing import normalize
from sklearn.utils.validation import _check_sample_weight, validate_data

from .samples import Blocks, InMemory, Samples, SparseRows, WithMissing

COPY_BYTES = 16 << 20  # up to this size unit vectors are made at once, else block by block


def is_dask(X) -> bool:
    return hasattr(X, "__dask_graph__")


def is_blocks(X) -> bool:
    """Whether ``X`` is a series of blocks rather than one table."""
    if isinstance(X, list | tuple):
        return len(X) > 0 and all(isinstance(b, np.ndarray) and b.ndim == 2 for b in X)
    if callable(X) or isinstance(X, Iterator):
        return True
    return hasattr(X, "__iter__") and not (hasattr(X, "__array__") or hasattr(X, "shape"))


def _again(X):
    """A function that begins a new pass over the blocks."""
    if callable(X):
        return X
    if isinstance(X, Iterator):
        raise ValueError(
            "expected blocks that can be gone through again (every epoch reads them all), got "
            f"a {type(X).__name__}: pass a list, or the function that makes the iterator"
        )
    return lambda: iter(X)


def _unit_rows(X: np.ndarray, first_row: int = 0) -> np.ndarray:
    norms = np.linalg.norm(X, axis=1)
    if not norms.all():
        row = first_row + int(np.argmin(norms != 0))
        raise ValueError(
            f"metric='cosine': row {row} of X is all zeros and has no direction: remove the row"
        )
    return X / norms[:, None]


def _unit_blocks(blocks):
    first = 0
    for block in blocks():
        yield _unit_rows(block, first)
        first += len(block)


def _checked_weights(estimator, weights, X, n_rows=None):
    if weights is None:
        return None
    if n_rows is None:
        weights = _check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True)
    else:
        weights = np.asarray(weights, np.float64)
    if not weights.sum() > 0:
        raise ValueError("sample_weight: expected a positive sum, got weights that are all zero")
    return weights


def open_samples(estimator, X, sample_weight=None, *, reset: bool) -> Samples:
    """Check ``X`` and its weights, and wrap them.

    Raises
    ------
    ValueError
        Names the row or the shape that is wrong.
    """
    cosine = estimator.metric == "cosine"
    if is_dask(X):
        from .distributed import DaskRows

        if cosine or estimator.missing == "ignore":
            raise ValueError(
                "dask arrays: expected metric='euclidean' and missing='error', got "
                f"{estimator.metric!r} and {estimator.missing!r}: normalize or fill X first"
            )
        weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        samples: Samples = DaskRows(X, weights)
        _check_n_features(estimator, samples.n_features, reset)
        return samples
    if is_blocks(X):
        if estimator.missing == "ignore":
            raise ValueError("blocks: expected missing='error', got 'ignore': fill values first")
        blocks = _again(X)
        weights = _checked_weights(estimator, sample_weight, None, n_rows=-1)
        samples = Blocks((lambda: _unit_blocks(blocks)) if cosine else blocks, weights)
        _check_n_features(estimator, samples.n_features, reset)
        return samples
    X = validate_data(
        estimator, X, reset=reset, accept_sparse="csr", dtype=[np.float64, np.float32],
        order="C", ensure_all_finite=False,
    )  # fmt: skip
    weights = _checked_weights(estimator, sample_weight, X)
    if sparse.issparse(X):
        if cosine:
            empty = np.flatnonzero(np.diff(X.indptr) == 0)
            if len(empty):
                _unit_rows(np.zeros((1, 1)), int(empty[0]))
            X = normalize(X)
        return SparseRows(X, weights)
    if estimator.missing == "ignore":
        return WithMissing(X, weights)
    if not cosine:
        return InMemory(X, weights)
    if X.nbytes <= COPY_BYTES:
        return InMemory(_unit_rows(X), weights)
    step = max(1, COPY_BYTES // (X.itemsize * X.shape[1]))
    return Blocks(
        lambda: _unit_blocks(lambda: (X[i : i + step] for i in range(0, len(X), step))), weights
    )


def _check_n_features(estimator, n_features: int, reset: bool) -> None:
    if reset:
        estimator.n_features_in_ = n_features
    elif n_features != estimator.n_features_in_:
        raise ValueError(
            f"X has {n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
