"""Distances of samples to nodes beside naive differences: precise at any offset and size."""

import naive
import numpy as np
import pytest
from rejuvenet.sofm import SOFM, distances, samples, sparse
from rejuvenet.sofm.blocks import Blocks
from rejuvenet.sofm.missing import WithMissing
from rejuvenet.sofm.samples import InMemory
from rejuvenet.sofm.sparse import SparseRows
from scipy.sparse import csr_matrix


@pytest.fixture
def short_pieces(monkeypatch):
    for module in (samples, sparse):
        monkeypatch.setattr(module, "PIECE_BYTES", 5000)


def nodes_amid(X, rng):
    """Nodes of which some are samples, and some nearly."""
    W = X[rng.integers(len(X), size=12)].copy()
    W[4:8] += (1e-7 * (X.max() - X.min()) * rng.standard_normal((4, X.shape[1]))).astype(X.dtype)
    W[8:] = X[8:12] + (X[20:24] - X[8:12]) / 3
    return W


@pytest.mark.parametrize(
    ("dtype", "offset", "size"),
    [("f4", 0, 1), ("f4", 1000, 1), ("f8", 1e6, 1), ("f8", 0, 1e-170), ("f8", 0, 1e170),
     ("f8", 1e9, 1e-3), ("f4", 0, 1e-30), ("f4", 0, 1e30)],
)  # fmt: skip
def test_digits_of_any_offset_and_size(digits, dtype, offset, size, short_pieces):
    rng = np.random.default_rng(0)
    X = ((digits[0][:60].astype("f8") + rng.random((60, 64))) * size + offset).astype(dtype)
    W = nodes_amid(X, rng)
    expected = naive.distances(X, W)
    pieces = list(InMemory(X).distances(W))
    assert len(pieces) > 2
    found = np.concatenate([d for d, _ in pieces])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=0)
    som = SOFM((3, 4), init=W, n_epochs=1).fit(X)
    som.codebook_ = W
    table = som.transform(X)
    assert table.dtype == dtype
    np.testing.assert_allclose(table, expected, rtol=1e-6 if dtype == "f4" else 1e-9, atol=0)


def test_equal_distances_of_integers_stay_equal(digits):
    X = digits[0][:100].astype("f8")
    W = X[:30]
    squares = naive.squared_distances(X, W)
    found = np.concatenate([d for d, _ in InMemory(X).distances(W)])
    np.testing.assert_array_equal(found, np.sqrt(squares))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_missing_values(digits, dtype, short_pieces):
    rng = np.random.default_rng(1)
    X = digits[0][:50].astype(dtype)
    W = nodes_amid(X, rng)
    X[rng.random(X.shape) < 0.4] = np.nan
    X[3, 10:] = np.nan
    found = np.concatenate([d for d, _ in WithMissing(lambda: [X]).distances(W)])
    np.testing.assert_allclose(found, naive.distances(X, W), rtol=1e-9, atol=1e-12)
    W[0, :40], W[1, 10:], W[2, :10] = np.nan, np.nan, np.nan
    found = np.concatenate([d for d, _ in WithMissing(lambda: [X]).distances(W)])
    np.testing.assert_allclose(found, naive.distances(X, W), rtol=1e-9, atol=1e-12)
    assert np.isnan(found[3, 2]), "no feature in common"


@pytest.mark.parametrize("size", [1.0, 1e-170, 1e170])
def test_sparse_rows(digits, size, short_pieces):
    rng = np.random.default_rng(2)
    X = digits[0][:60].astype("f8") * size
    W = nodes_amid(X, rng)
    weights = rng.random(60)
    pieces = list(SparseRows(csr_matrix(X), weights).distances(W))
    assert len(pieces) > 1
    np.testing.assert_allclose(
        np.concatenate([d for d, _ in pieces]), naive.distances(X, W), rtol=1e-9, atol=0
    )
    np.testing.assert_array_equal(np.concatenate([m for _, m in pieces]), weights)


def test_wide_sparse_rows_are_not_made_dense(monkeypatch):
    import tracemalloc

    rng = np.random.default_rng(0)
    places = rng.integers(3000, size=6000), rng.integers(100_000, size=6000)
    X = SparseRows(csr_matrix((rng.random(6000), places), shape=(3000, 100_000)))
    W = np.zeros((4, 100_000))
    table = distances.distance_table(X, W)  # compiles
    tracemalloc.start()
    distances.distance_table(X, W)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32e6  # 2.4 GB if X were dense
    np.testing.assert_allclose(table[:, 0] ** 2, X.X.multiply(X.X).sum(axis=1).A1)


def test_weights_and_blocks_come_in_pieces(digits, short_pieces):
    X = digits[0][:200]
    weights = np.arange(1.0, 201)
    pieces = list(Blocks(lambda: iter([X[:150], X[150:]]), weights).distances(X[:5]))
    assert [len(d) == len(m) for d, m in pieces] == [True] * len(pieces)
    np.testing.assert_array_equal(np.concatenate([m for _, m in pieces]), weights)
    assert max(len(d) for d, _ in pieces) * 64 * 8 <= 5000


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("form", ["dense", "csr", "blocks"])
def test_transform_agrees_with_the_error(digits, metric, form):
    X = digits[0].astype("f8")
    as_form = {"dense": X, "csr": csr_matrix(X), "blocks": [X[:1000], X[1000:]]}[form]
    som = SOFM((5, 5), metric=metric, n_epochs=4).fit(as_form)
    table = som.transform(as_form)
    assert table.min(axis=1).mean() == pytest.approx(som.quantization_error_, rel=1e-12)
    np.testing.assert_array_equal(table.argmin(axis=1), som.labels_)
    if metric == "cosine":
        cos = X @ som.codebook_.T / np.linalg.norm(X, axis=1, keepdims=True)
        np.testing.assert_allclose(table, np.sqrt(2 - 2 * cos), atol=1e-7)


def test_one_sample_with_missing_values_is_enough(digits):
    X = digits[0][:200].astype("f8")
    som = SOFM((3, 3), missing="ignore", n_epochs=2).fit(X)
    row = X[:1].copy()
    row[0, 10:] = np.nan
    expected = naive.distances(row, som.codebook_)
    np.testing.assert_allclose(som.transform(row), expected, rtol=1e-9)
    assert som.predict(row)[0] == expected.argmin()
    assert -som.score(row) == pytest.approx(expected.min())
    som.partial_fit(np.tile(row, (3, 1)))
    assert np.isfinite(som.codebook_).all()


def test_between():
    W = np.array([[0.0, 0.0], [3e200, 4e200], [-3e200, -4e200]])
    a, b = np.array([0, 2, 1]), np.array([1, 1, 1])
    np.testing.assert_allclose(distances.between(W, a, b), [5e200, 1e201, 0])
