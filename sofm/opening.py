"""From what a user passes as ``X`` to :class:`.samples.Samples`: where data is checked.

A dense array or data frame, a memory map, a CSR matrix, blocks (a list of 2-D arrays, or anything
that can be iterated over again, or a function returning an iterator), or a dask array.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
from scipy import sparse
from sklearn.utils.validation import _check_sample_weight, validate_data

from . import samples as forms
from .blocks import Blocks
from .metrics import WithoutMeans, has_means
from .missing import WithMissing
from .samples import InMemory, Samples, directions
from .scan import unmasked
from .sparse import SparseRows, dense_slices, unit_csr


def is_dask(X) -> bool:
    return hasattr(X, "__dask_graph__")


def is_blocks(X) -> bool:
    """Whether ``X`` is a series of blocks rather than one table.

    Raises
    ------
    ValueError
        It is neither, or a list of what look like images.
    """
    if sparse.issparse(X):  # some are mappings
        return False
    if isinstance(X, Mapping | Set | str | bytes):
        raise ValueError(
            f"expected an array, a sparse matrix, a dask array or blocks, got a {type(X).__name__}:"
            " pass its values as an array of shape (N, D)"
        )
    if isinstance(X, list | tuple):
        blocks = len(X) > 0 and all(isinstance(b, np.ndarray) and b.ndim == 2 for b in X)
        if blocks and len(X) > 1 and len({b.shape for b in X}) == 1:
            (n, D) = X[0].shape
            if n > 1 and n <= 2 * D and 2 * n >= D:
                raise ValueError(
                    f"expected blocks of rows, got a list of {len(X)} arrays of {n} x {D}, which "
                    "may be images: pass np.reshape(X, (len(X), -1)) for images, or lambda: iter(X)"
                    " for blocks"
                )
        return blocks
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


def checked_weights(weights, X=None):
    if weights is None:
        return None
    if isinstance(weights, np.ma.MaskedArray):
        weights = unmasked(weights)  # NaN, which is refused
    if X is not None:
        weights = _check_sample_weight(weights, X, dtype=np.float64, ensure_non_negative=True)
    weights = np.asarray(weights, np.float64)
    with np.errstate(over="ignore"):
        whole = weights.sum()
    if not (np.isfinite(weights).all() and (weights >= 0).all() and 0 < whole < np.inf):
        raise ValueError(
            "sample_weight: expected finite numbers >= 0 that are not all zero, and whose sum is "
            f"finite, got {np.array2string(weights, threshold=5)}"
        )
    return weights


def open_samples(estimator, X, sample_weight=None, *, reset: bool) -> Samples:
    """Check ``X`` and its weights, and wrap them.

    Raises
    ------
    ValueError
        Names the row, the shape or the type that is wrong.
    """
    samples = _opened(estimator, X, sample_weight, reset)
    if not reset and (most := np.abs(estimator.codebook_).max()) > np.finfo(samples.dtype).max:
        raise ValueError(
            f"expected samples of float64, as the map's nodes of up to {most:.3g} are, got "
            f"{samples.dtype}: pass X.astype('float64')"
        )
    return samples


def _opened(estimator, X, sample_weight, reset: bool) -> Samples:
    metric = estimator.metric
    dask, blocks = is_dask(X), is_blocks(X)
    if not has_means(metric) and (dask or blocks or sparse.issparse(X)):
        kind = "a dask array" if dask else "blocks" if blocks else "a sparse matrix"
        raise ValueError(f"metric={metric!r}: expected one dense array in memory, got {kind}")
    missing = estimator.missing == "ignore"
    if dask or blocks:
        weights = checked_weights(sample_weight)
        if dask:
            from .distributed import DaskRows

            if missing:
                raise ValueError(
                    "dask arrays: expected missing='error', got 'ignore': pass blocks, or fill "
                    "values first"
                )
            samples: Samples = DaskRows(X, weights, metric)
        elif missing:
            samples = WithMissing(_again(X), weights, every_column=reset)
        else:
            samples = Blocks(_again(X), weights, metric)
        check_n_features(estimator, samples.n_features, reset)
        return samples
    if isinstance(X, np.ma.MaskedArray):
        X = unmasked(X)
    by_block = _is_converted_by_block(estimator, X)
    X = validate_data(
        estimator, X, reset=reset, accept_sparse="csr", ensure_all_finite=False,
        ensure_min_features=2 if reset and metric == "correlation" else 1,  # one is constant
        dtype=None if by_block else [np.float64, np.float32], order=None if by_block else "C",
    )  # fmt: skip
    weights = checked_weights(sample_weight, X)
    if sparse.issparse(X):
        if metric == "correlation":  # centred rows are dense
            return Blocks(lambda: dense_slices(X), weights, metric)
        X = unit_csr(X) if metric == "cosine" else X
        return SparseRows(X, weights, missing, every_column=reset)
    if not has_means(metric):
        return WithoutMeans(X, weights, metric)
    if missing:
        parts = forms.slices_of if by_block else lambda X: [X]
        return WithMissing(lambda: parts(X), weights, every_column=reset)
    if by_block:
        return Blocks(lambda: forms.slices_of(X), weights, metric)
    return InMemory(directions(X, metric), weights)


def _is_converted_by_block(estimator, X) -> bool:
    """Whether a large array would have to be copied: for its type, its order or its lengths."""
    if not isinstance(X, np.ndarray) or X.ndim != 2 or not has_means(estimator.metric):
        return False
    ready = X.dtype in (np.float32, np.float64) and X.flags.c_contiguous
    return X.dtype.kind in "biuf" and X.size * 8 > forms.COPY_BYTES and not (
        ready and estimator.metric == "euclidean"
    )


def check_n_features(estimator, n_features: int, reset: bool) -> None:
    if reset:
        estimator.n_features_in_ = n_features
    elif n_features != estimator.n_features_in_:
        raise ValueError(
            f"X has {n_features} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
