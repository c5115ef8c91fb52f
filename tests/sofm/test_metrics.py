"""Distances other than Euclid's: winners, nodes and measures beside naive twins."""


import naive
import numpy as np
import pytest
from rejuvenet import sofm
from rejuvenet.sofm import SOFM, SOMClassifier, metrics
from scipy import sparse
from sklearn.metrics import pairwise_distances


def canberra(a, b):
    return float((np.abs(a - b) / (np.abs(a) + np.abs(b) + 1e-9)).sum())


def places(n, seed=0):
    """On a cap around the date line."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(-0.3, 0.2, n), np.pi + rng.normal(0, 0.3, n)])


def samples(metric, digits):
    return places(90) if metric == "haversine" else digits[0][:90].astype("f8")


METRICS = ["manhattan", "chebyshev", "haversine", canberra]
names = lambda m: getattr(m, "__name__", m)  # noqa: E731


@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_winners_and_nodes(metric, digits, monkeypatch):
    """One epoch beside the sum that a node is to minimize, over many places for it."""
    X = samples(metric, digits)
    m = np.random.default_rng(1).integers(0, 3, len(X)).astype("f8")
    options = dict(shape=(3, 4), metric=metric, neighborhood="cut_gaussian")
    start = SOFM(**options, n_epochs=2).fit(X).codebook_
    som = SOFM(**options, init=start, sigma=0.9, n_epochs=1).fit(X, sample_weight=m)
    d = pairwise_distances(X, som.codebook_, metric=metric)
    np.testing.assert_array_equal(som.labels_, d.argmin(axis=1))
    assert som.quantization_error_ == pytest.approx(np.average(d.min(axis=1), weights=m))
    assert -som.score(X, sample_weight=m) == pytest.approx(som.quantization_error_)
    np.testing.assert_allclose(som.transform(X), d, atol=1e-12)
    nearest = np.argsort(d, axis=1, kind="stable")[:, :2]
    apart = 1 - som.grid_.adjacent(*nearest.T)
    assert som.topographic_error_ == pytest.approx(np.average(apart, weights=m))

    won = pairwise_distances(X, start, metric=metric).argmin(axis=1)
    H = naive.neighborhood_matrix("cut_gaussian", 0.5, 3, 4)[:, won] * m
    rng = np.random.default_rng(2)
    for k, w in enumerate(som.codebook_):
        if not H[k].any():
            np.testing.assert_array_equal(w, start[k], err_msg="a node without samples stays")
            continue

        def cost(W, k=k):
            d = pairwise_distances(X, np.atleast_2d(W), metric=metric)
            return H[k] @ (1 - np.cos(d) if metric == "haversine" else d)

        medoid = metric in ("chebyshev", canberra)
        others = X[m > 0] if medoid else w + rng.normal(0, 0.05 * X.std(), (200, X.shape[1]))
        assert cost(w)[0] <= cost(others).min() * (1 + 1e-9)
        assert not medoid or (w == X).all(axis=1).any()
    again = SOFM(**options, init=start, sigma=0.9, n_epochs=1)
    monkeypatch.setattr(metrics, "PIECE_BYTES", 5000)  # some columns at a time
    monkeypatch.setattr(metrics, "KEPT_BYTES", 0)
    monkeypatch.setattr(metrics, "ROWS_OF_H", 5)
    repeated = again.fit(np.repeat(X, m.astype(int), axis=0))
    np.testing.assert_allclose(repeated.codebook_, som.codebook_, atol=1e-9)


@pytest.mark.parametrize("metric", ["manhattan", "chebyshev", "haversine"])
def test_any_number_of_threads_gives_the_same_bits(metric, digits):
    X = np.tile(places(4000) if metric == "haversine" else digits[0], (2, 1))[:1000]
    fits = [SOFM((6, 6), metric=metric, n_epochs=2, n_jobs=n).fit(X) for n in (1, 3)]
    assert fits[0].codebook_.tobytes() == fits[1].codebook_.tobytes()
    assert fits[0].history_ == fits[1].history_


def test_medians_are_the_lower_ones():
    X = np.array([[1.0], [2.0], [3.0], [10.0], [0.0]])
    som = SOFM(1, metric="manhattan", n_epochs=1)
    assert som.fit(X).codebook_.tolist() == [[2.0]]
    assert som.fit(X[:4]).codebook_.tolist() == [[2.0]]  # between 2 and 3 all are as good
    assert som.fit(X, sample_weight=[1, 1, 1, 5, 1]).codebook_.tolist() == [[10.0]]


def test_places_across_the_date_line():
    X = np.radians([[10, 179], [10, -179], [-60, 5]])
    som = SOFM(2, metric="haversine", sigma=0.01, init=X[[0, 2]], n_epochs=2).fit(X)
    latitude, longitude = np.degrees(som.codebook_[0])
    assert latitude == pytest.approx(10, abs=0.01)
    assert abs(longitude) == pytest.approx(180)
    assert som.labels_.tolist() == [0, 0, 1]
    np.testing.assert_allclose(sofm.node_graph(som).toarray(), som.transform(som.codebook_))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, lambda X: [X[:70], X[70:]]])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_correlation_ignores_offset_and_size(form, dtype, digits):
    X = digits[0][:150].astype(dtype)
    rng = np.random.default_rng(0)
    other = X * rng.uniform(0.5, 9, (150, 1)) + rng.uniform(1, 9, (150, 1))
    options = dict(shape=(3, 3), metric="correlation", n_epochs=4)
    a, b = SOFM(**options).fit(form(X)), SOFM(**options).fit(other.astype(dtype))
    np.testing.assert_allclose(a.codebook_, b.codebook_, atol=1e-4 if dtype == "f4" else 1e-9)
    r = np.array([[np.corrcoef(x, w)[0, 1] for w in a.codebook_] for x in X])
    np.testing.assert_allclose(a.transform(form(X)), np.sqrt(2 - 2 * r), atol=2e-3)
    np.testing.assert_array_equal(a.labels_, r.argmax(axis=1))


@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_measures_use_the_metric(metric, digits):
    X = samples(metric, digits)[:40]
    som = SOFM((3, 3), metric=metric, n_epochs=2).fit(X)
    W, grid = som.codebook_, som.grid_
    between = pairwise_distances(W, metric=metric)
    a, b = grid.touching().T
    graph = sofm.node_graph(som).toarray()
    np.testing.assert_allclose(graph[a, b], between[a, b], atol=1e-9)
    d = pairwise_distances(X, W, metric=metric)
    H = naive.neighborhood_matrix("gaussian", 0.8, 3, 3)
    expected = np.mean([H[row.argmin()] @ row**2 for row in d])
    assert sofm.distortion(som, X, 0.8) == pytest.approx(expected)
    assert np.isfinite(sofm.topographic_product(som))
    apart = grid.distances()[d.argmin(axis=1)][:, d.argmin(axis=1)]
    expected = naive.trust(pairwise_distances(X, metric=metric), apart, 5, True, distances=True)
    assert sofm.trustworthiness(som, X, 5) == pytest.approx(expected)
    assert len(set(sofm.cluster_nodes(som, 3))) == 3
    y = X[:, 0] > np.median(X[:, 0])
    assert SOMClassifier(som, target_weight=0).fit(X, y).score(X, y) > 0.5


WRONG = [
    (dict(metric="manhattan"), lambda X: [X, X, X[:3]], "expected one dense array .* got blocks"),
    (dict(metric="chebyshev"), sparse.csr_matrix, "got a sparse matrix"),
    (dict(metric="haversine"), np.asarray, "expected two features"),
    (dict(metric="haversine"), lambda X: 90 * X[:, :2], "pass np.radians of degrees"),
    (dict(metric="manhattan", missing="ignore"), np.asarray, "undefined where values are missing"),
    (dict(metric="correlation"), lambda X: np.vstack([X, np.full((1, 4), 0.1)]), "row 30 .*const"),
    (dict(metric="correlation"), lambda X: np.vstack([X, [[0, 1, 2, np.inf]]]), "row 30"),
    (dict(metric=lambda a, b: -1.0), np.asarray, "returns distances >= 0, got -1.0"),
    (dict(metric=lambda a, b: np.nan), np.asarray, "got nan"),
]


@pytest.mark.parametrize(("options", "form", "message"), WRONG)
def test_what_cannot_be_compared(options, form, message):
    X = np.random.default_rng(0).random((30, 4))
    with pytest.raises(ValueError, match=message) as caught:
        SOFM(**options).fit(form(X))
    assert "\n" not in str(caught.value)


def test_what_takes_means(tmp_path):
    X = np.random.default_rng(0).random((30, 4))
    som = SOFM(2, metric=canberra, n_epochs=1).fit(X)
    with pytest.raises(AttributeError, match="no attribute") as caught:
        som.partial_fit(X)
    assert "means" in str(caught.value.__cause__)
    for call in (
        lambda: sofm.explained_variance(som, X),
        lambda: SOMClassifier(som).fit(X, X[:, 0] > 0.5),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="means"):
            call()
    with pytest.raises(ValueError, match="metric: expected one with a name"):
        som.save(tmp_path / "map.npz")
    assert not list(tmp_path.iterdir())
    SOFM(2, metric="chebyshev").fit(X).save(tmp_path / "map.npz")
    assert SOFM.load(tmp_path / "map.npz").metric == "chebyshev"
