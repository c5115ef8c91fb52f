"""Measures beside their naive twins; labels, clusters and pictures of nodes."""

import tracemalloc

import naive
import numpy as np
import pytest
from rejuvenet import sofm
from rejuvenet.sofm import SOFM, order, plots, samples
from scipy.sparse import csr_matrix


@pytest.fixture(
    scope="module", params=["rectangular", "hexagonal", "line"], ids=lambda kind: str(kind)
)
def fitted(request, digits):
    X = digits[0][:150].astype("f8")
    line = request.param == "line"
    shape = 9 if line else (4, 3)
    som = SOFM(shape, topology="rectangular" if line else request.param, n_epochs=6).fit(X)
    return som, X


def test_errors(fitted):
    som, X = fitted
    d = naive.squared_distances(X, som.codebook_)
    assert sofm.quantization_error(som, X) == pytest.approx(np.sqrt(d.min(axis=1)).mean())
    expected = naive.topographic_error(X, som.codebook_, som.grid_.adjacent)
    assert sofm.topographic_error(som, X) == pytest.approx(expected)
    assert som.topographic_error_ == pytest.approx(expected)
    mean = ((X - X.mean(axis=0)) ** 2).sum()
    assert sofm.explained_variance(som, X) == pytest.approx(1 - d.min(axis=1).sum() / mean)


def test_distortion(fitted):
    som, X = fitted
    grid = som.grid_
    H = naive.neighborhood_matrix(
        "gaussian", 0.8, grid.rows, grid.columns, grid.topology == "hexagonal"
    )
    assert sofm.distortion(som, X, 0.8) == pytest.approx(naive.distortion(X, som.codebook_, H))


def test_topographic_product(fitted, monkeypatch):
    som, _ = fitted
    expected = naive.topographic_product(som.codebook_, som.grid_.distances())
    assert sofm.topographic_product(som) == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(order, "PIECE_BYTES", 500)  # a few rows at a time
    assert sofm.topographic_product(som) == pytest.approx(expected, rel=1e-6)


def test_u_matrix(fitted):
    som, _ = fitted
    expected = naive.u_matrix(som.codebook_, som.grid_.adjacent)
    found = sofm.u_matrix(som)
    assert found.shape == (som.grid_.rows, som.grid_.columns)
    np.testing.assert_allclose(found.ravel(), expected)
    alone = SOFM(1, n_epochs=1).fit([[0.0], [1.0]])
    assert sofm.u_matrix(alone).tolist() == [[0.0]]


@pytest.fixture(scope="module", params=["euclidean", "cosine"])
def forms(request, digits):
    """A map and its samples in every form."""
    import dask.array
    import pandas

    X = digits[0][:120].astype("f8")
    som = SOFM((3, 3), metric=request.param, n_epochs=4).fit(X)
    return som, {
        "dense": X,
        "frame": pandas.DataFrame(X),
        "csr": csr_matrix(X),
        "blocks": [X[:50], X[50:]],
        "function": lambda: iter([X[:50], X[50:]]),
        "dask": dask.array.from_array(X, chunks=(50, 30)),
    }


SCORES = {
    "quantization_error": lambda som, X, y: sofm.quantization_error(som, X),
    "distortion": lambda som, X, y: sofm.distortion(som, X, 1.2),
    "explained_variance": lambda som, X, y: sofm.explained_variance(som, X),
    "topographic_error": lambda som, X, y: sofm.topographic_error(som, X),
    "trustworthiness": lambda som, X, y: sofm.trustworthiness(som, X, 7),
    "neighborhood_preservation": lambda som, X, y: sofm.neighborhood_preservation(som, X, 7),
    "nearest_samples": lambda som, X, y: sofm.nearest_samples(som, X, 4, 9),
    "hit_histogram": lambda som, X, y: sofm.hit_histogram(som, X),
    "label_map": lambda som, X, y: sofm.label_map(som, X, y).astype(float),
    "class_counts": lambda som, X, y: sofm.class_counts(som, X, y)[0],
    "score_samples": lambda som, X, y: som.score_samples(X),
}


@pytest.mark.parametrize("name", SCORES)
def test_every_form_gives_the_same(name, forms, digits, monkeypatch):
    monkeypatch.setattr(samples, "PIECE_BYTES", 20_000)
    monkeypatch.setattr(order, "PIECE_BYTES", 20_000)
    som, of_form = forms
    y = digits[1][:120]
    expected = SCORES[name](som, of_form["dense"], y)
    if som.metric == "cosine":  # as of samples of length 1
        unit = SOFM((3, 3), n_epochs=1).fit(of_form["dense"])
        unit.codebook_ = som.codebook_
        X = of_form["dense"]
        X = X / np.linalg.norm(X, axis=1, keepdims=True)
        np.testing.assert_allclose(expected, SCORES[name](unit, X, y), rtol=1e-9)
    for form, X in of_form.items():
        np.testing.assert_allclose(SCORES[name](som, X, y), expected, rtol=1e-9, err_msg=form)


def test_missing_values_in_every_measure(digits):
    X, y = digits[0][:60].astype("f8"), digits[1][:60]
    X[np.random.default_rng(0).random(X.shape) < 0.3] = np.nan
    som = SOFM((3, 2), missing="ignore", n_epochs=4).fit(X)
    d = naive.distances(X, som.codebook_)
    nodes = d.argmin(axis=1)
    H = naive.neighborhood_matrix("gaussian", 0.9, 3, 2)
    assert sofm.distortion(som, X, 0.9) == pytest.approx((H[nodes] * d**2).sum() / 60)
    expected = naive.explained_variance(X, som.codebook_)
    assert sofm.explained_variance(som, X) == pytest.approx(expected)
    np.testing.assert_array_equal(
        sofm.nearest_samples(som, X, 3, 60), np.argsort(d[:, 3], kind="stable")
    )
    hits = np.bincount(nodes, minlength=6)
    np.testing.assert_array_equal(sofm.hit_histogram(som, X).ravel(), hits)
    assert (np.equal(sofm.label_map(som, X, y).ravel(), None) == (hits == 0)).all()
    between, places = naive.distances(X, X), som.grid_.distances()[nodes][:, nodes]
    for measure, intruders in (
        (sofm.trustworthiness, True), (sofm.neighborhood_preservation, False)
    ):  # fmt: skip
        expected = naive.trust(between, places, 4, intruders, distances=True)
        assert measure(som, X, 4) == pytest.approx(expected)
    np.testing.assert_allclose(som.score_samples(X), -d.min(axis=1))
    X[0, :32], X[1, 32:] = np.nan, np.nan  # nothing in common: as far apart as can be
    assert 0 < sofm.trustworthiness(som, X, 4) <= 1


@pytest.mark.parametrize("name", ["distortion", "explained_variance", "label_map", "hits"])
def test_a_weight_of_two_is_a_sample_that_occurs_twice(name, digits):
    X, y = digits[0][:100].astype("f8"), digits[1][:100] % 4
    m = np.random.default_rng(3).integers(0, 4, 100)
    som = SOFM((2, 3), n_epochs=3).fit(X)
    measure = {
        "distortion": lambda X, y, m: sofm.distortion(som, X, sample_weight=m),
        "explained_variance": lambda X, y, m: sofm.explained_variance(som, X, sample_weight=m),
        "label_map": lambda X, y, m: sofm.label_map(som, X, y, sample_weight=m).astype(float),
        "hits": lambda X, y, m: sofm.hit_histogram(som, X, sample_weight=m),
    }[name]
    weighted = measure(X, y, m.astype("f8"))
    assert (np.asarray(weighted) != measure(X, y, None)).any()
    many = measure(np.repeat(X, m, axis=0), np.repeat(y, m), None)
    np.testing.assert_allclose(weighted, many, rtol=1e-12)
    if name == "hits":
        np.testing.assert_array_equal(sofm.hit_histogram(som, sample_weight=m), weighted)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_explained_variance_of_constant_samples(dtype):
    X = np.full((7, 3), 0.1, dtype)
    som = SOFM(2, n_epochs=2).fit(X)
    assert sofm.explained_variance(som, X) == 1.0
    assert sofm.explained_variance(som, X + X) == 0.0
    other = np.concatenate([X + 1, X])
    weights = np.repeat([0.0, 0.3], 7)
    assert sofm.explained_variance(som, other, weights) == 1.0


@pytest.mark.parametrize("size", [1e-170, 1e170])
def test_explained_variance_of_any_size_and_offset(digits, size):
    X = digits[0][:100].astype("f8")
    expected = sofm.explained_variance(SOFM(5, init=X[:5], n_epochs=2).fit(X), X)
    sized = SOFM(5, init=X[:5] * size, n_epochs=2).fit(X * size)
    assert sofm.explained_variance(sized, X * size) == pytest.approx(expected)
    moved = SOFM(5, init=X[:5] + 1e6, n_epochs=2).fit(X + 1e6)
    assert sofm.explained_variance(moved, X + 1e6) == pytest.approx(expected)


WRONG = [
    (lambda som, X: sofm.distortion(som, X, 0), "sigma: expected a number > 0, got 0"),
    (lambda som, X: sofm.distortion(som, X, "wide"), "sigma"),
    (lambda som, X: sofm.distortion(som, X, sample_weight=[1.0]), "sample_weight|Sample weights"),
    (lambda som, X: sofm.trustworthiness(som, X, 2.5), "n_neighbors: expected an integer"),
    (lambda som, X: sofm.neighborhood_preservation(som, X, 0), "n_neighbors"),
    (lambda som, X: sofm.hit_histogram(som, sample_weight=np.ones(3)), "one weight for each of 40"),
    (lambda som, X: sofm.hit_histogram(som, sample_weight=-np.ones(40)), "sample_weight"),
    (lambda som, X: sofm.label_map(som, X, [1, 2]), "y: expected one label for each of 40"),
    (lambda som, X: sofm.label_map(som, X, np.ones((40, 2))), "y: expected one label"),
    (lambda som, X: sofm.nearest_samples(som, X, 1.5), "node: expected an integer from 0 to 3"),
    (lambda som, X: sofm.nearest_samples(som, X, -1), "node"),
    (lambda som, X: sofm.nearest_samples(som, X, 0, n=0), "n: expected an integer from 1 on"),
    (lambda som, X: sofm.cluster_nodes(som, 2.0), "n_clusters: expected an integer from 1 to 4"),
    (lambda som, X: plots.sample_names(som, X, ["a"]), "names: expected one for each of 40"),
    (lambda som, X: sofm.explained_variance(som, X[:, :5]), "5 features"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_wrong_arguments_are_one_sentence(call, message, digits):
    X = digits[0][:40]
    som = SOFM(4, n_epochs=1).fit(X)
    with pytest.raises(ValueError, match=message) as caught:
        call(som, X)
    assert "\n" not in str(caught.value)


def test_nearest_samples_looks_at_one_node(digits, monkeypatch):
    X = digits[0][:50]
    som = SOFM(9, n_epochs=2).fit(X)
    shapes, distances = [], samples.Samples.distances
    monkeypatch.setattr(
        samples.Samples, "distances", lambda s, W: shapes.append(W.shape) or distances(s, W)
    )
    assert len(sofm.nearest_samples(som, X, 3, n=80)) == 50
    assert shapes == [(1, 64)]


def test_topographic_product_needs_little_memory(monkeypatch):
    X = np.random.default_rng(0).random((2000, 3))
    som = SOFM((40, 50), init=X, sigma=0.1, n_epochs=1).fit(X)
    monkeypatch.setattr(order, "PIECE_BYTES", 1 << 20)
    tracemalloc.start()
    sofm.topographic_product(som)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # one array of K x K takes 32 MB, and there were eight


def test_large_maps_need_little_memory():
    som = SOFM((100, 100), init=np.random.default_rng(0).random((10_000, 4)), n_epochs=1)
    som.set_params(sigma=0.1).fit(np.zeros((5, 4)))
    X = np.random.default_rng(1).random((1000, 4))
    sofm.distortion(som, X[:10])  # the grid keeps its coordinates
    tracemalloc.start()
    graph = sofm.node_graph(som)
    assert tracemalloc.get_traced_memory()[1] < 40e6
    assert graph.nnz == 8 * 98 * 98 + 5 * 4 * 98 + 3 * 4
    tracemalloc.reset_peak()
    sofm.distortion(som, X)  # K x K would take 800 MB
    assert tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()


@pytest.mark.parametrize("k", [1, 5])
def test_trust(fitted, k):
    som, X = fitted
    X = X[:40]
    nodes = som.predict(X)
    places = som.grid_.distances()[nodes][:, nodes]
    assert sofm.trustworthiness(som, X, k) == pytest.approx(naive.trust(X, places, k, True))
    kept = naive.trust(X, places, k, False)
    assert sofm.neighborhood_preservation(som, X, k) == pytest.approx(kept)
    with pytest.raises(ValueError, match="n_neighbors"):
        sofm.trustworthiness(som, X, 20)


def test_hits_and_labels(digits):
    X, y = digits
    som = SOFM((8, 8)).fit(X)
    hits = sofm.hit_histogram(som)
    assert hits.shape == (8, 8)
    assert hits.sum() == len(X)
    np.testing.assert_array_equal(sofm.hit_histogram(som, X), hits)
    labels = sofm.label_map(som, X, y)
    assert (np.equal(labels, None) == (hits == 0)).all()
    flat = labels.ravel()
    for k in range(64):
        if flat[k] is not None:
            mine = y[som.labels_ == k]
            assert (mine == flat[k]).sum() == np.bincount(mine).max()
    with pytest.raises(ValueError, match="one label"):
        sofm.label_map(som, X, y[:3])


def test_counts_of_classes(digits):
    X, y = digits
    m = np.random.default_rng(0).random(len(X))
    som = SOFM((5, 6), n_epochs=4).fit(X)
    counts, classes = sofm.class_counts(som, X, y.astype(str), m)
    assert classes.tolist() == list("0123456789")
    for k in range(30):
        mine = som.labels_ == k
        expected = np.bincount(y[mine], m[mine], minlength=10)
        np.testing.assert_allclose(counts.reshape(30, 10)[k], expected)


@pytest.mark.parametrize(("dtype", "size"), [("f4", 1), ("f8", 1e-200), ("f8", 1e200)])
def test_scores_of_samples(dtype, size, digits):
    X = (digits[0][:300].astype("f8") * size).astype(dtype)
    som = SOFM((3, 4), n_epochs=4).fit(X)
    scores = som.score_samples(X)
    np.testing.assert_allclose(scores, -som.transform(X).min(axis=1), rtol=1e-5)
    assert scores.mean() == pytest.approx(som.score(X))
    assert som.score_samples(3 * X.max(axis=0)[None]) < scores.min(), "an outlier"
    activation = sofm.activation_map(som, X[5])
    np.testing.assert_array_equal(activation.ravel(), som.transform(X[5:6])[0])
    with pytest.raises(ValueError, match=r"x: expected one sample .* got shape \(2, 64\)"):
        sofm.activation_map(som, X[:2])


def test_clusters_are_connected(digits):
    from scipy.sparse.csgraph import connected_components

    som = SOFM((6, 7), topology="hexagonal", n_epochs=5).fit(digits[0])
    clusters = sofm.cluster_nodes(som, 5)
    assert len(np.unique(clusters)) == 5
    graph = sofm.node_graph(som).toarray() > 0
    for c in range(5):
        mine = clusters == c
        assert connected_components(graph[mine][:, mine])[0] == 1
    with pytest.raises(ValueError, match="n_clusters"):
        sofm.cluster_nodes(som, 43)


def test_nearest_samples(digits):
    X = digits[0]
    som = SOFM(9, n_epochs=4).fit(X)
    expected = np.argsort(naive.squared_distances(X, som.codebook_)[:, 3], kind="stable")[:7]
    assert set(sofm.nearest_samples(som, X, 3, n=7)) == set(expected)
    with pytest.raises(ValueError, match="node"):
        sofm.nearest_samples(som, X, 9)


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
def test_pictures(topology, digits, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    X, y = digits
    som = SOFM((3, 4), topology=topology, n_epochs=2).fit(X)
    sides = {"rectangular": 4, "hexagonal": 6}[topology]
    for ax in (plots.u_matrix(som), plots.hits(som), plots.component_plane(som, 20)):
        cells = ax.collections[0]
        assert len(cells.get_paths()) == 12
        assert len(cells.get_paths()[0].vertices) == sides + 1
    assert {t.get_text() for t in plots.class_map(som, X, y).texts} <= set("0123456789")
    curve = plots.training(som).lines[0]
    errors = [r["quantization_error"] for r in som.history_]
    np.testing.assert_allclose(curve.get_ydata(), errors)
    texts = [t.get_text().split("\n") for t in plots.sample_names(som, X[:40], y[:40]).texts]
    assert sum(len(t) if t[-1][0] != "+" else 4 + int(t[-1]) for t in texts) == 40
    ax = plots.activation(som, X[0])
    assert (
        ax.lines[0].get_xydata()[0].tolist() == som.grid_.coordinates[som.labels_[0]][::-1].tolist()
    )
    np.testing.assert_allclose(ax.collections[0].get_array(), som.transform(X[:1])[0])
    ax = plots.errors_by_size(som, X[:100], [2, (2, 4)])
    two = [SOFM(s, topology=topology, n_epochs=2).fit(X[:100]) for s in (2, (2, 4))]
    assert ax.lines[0].get_xdata().tolist() == [2, 8]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [m.quantization_error_ for m in two])
    assert som.grid_.rows == 3
    sizes = plots.errors_by_size(som.set_params(periodic=True), X[:50]).lines[0].get_xdata()
    assert len(sizes) == 5
    assert sizes[-1] > 8 * sizes[0]
    figure = plots.component_planes(som, [1, 2, 3, 4, 5])
    assert len(figure.axes) == 5
    figure.savefig(tmp_path / "planes.png")
    assert (tmp_path / "planes.png").stat().st_size > 1000
    pyplot.close("all")


@pytest.mark.parametrize("shape", [1, 5, (6, 6)])
def test_trust_is_the_mean_over_orders_of_ties(shape, digits):
    from sklearn.manifold import trustworthiness

    X = digits[0][:120].astype("f8")
    som = SOFM(shape, n_epochs=4).fit(X)
    places = som.grid_.coordinates[som.predict(X)]
    rng = np.random.default_rng(0)
    jitters = [places + 1e-6 * rng.standard_normal(places.shape) for _ in range(40)]
    for k in (1, 5, 20):
        trust = [trustworthiness(X, j, n_neighbors=k) for j in jitters]
        kept = [trustworthiness(j, X, n_neighbors=k) for j in jitters]
        for found, samples_ in (
            (sofm.trustworthiness(som, X, k), trust),
            (sofm.neighborhood_preservation(som, X, k), kept),
        ):
            spread = np.std(samples_) / np.sqrt(len(samples_))
            assert found == pytest.approx(np.mean(samples_), abs=4 * spread + 2e-4)
            assert 0 <= found <= 1


def test_trust_does_not_fall_with_the_number_of_samples(digits):
    X = digits[0]
    som = SOFM((10, 10), random_state=0).fit(X)
    values = [sofm.trustworthiness(som, X[:n]) for n in (200, 500, 1000)]
    assert min(values) > 0.92
    one = SOFM(1, n_epochs=1).fit(X[:200])
    assert 0.3 < sofm.neighborhood_preservation(one, X[:200]) < 0.7, "no better than chance"


def test_pictures_of_named_features(digits):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import pyplot

    frame = pandas.DataFrame(digits[0][:50, 2:5], columns=["width", "height", "ink"])
    som = SOFM((2, 2), n_epochs=1).fit(frame)
    values = plots.component_plane(som, "ink").collections[0].get_array()
    np.testing.assert_allclose(values, som.codebook_[:, 2])
    titles = [ax.get_title() for ax in plots.component_planes(som, ["ink", 0]).axes]
    assert titles == ["ink", "width"]
    assert [ax.get_title() for ax in plots.component_planes(som).axes] == list(frame.columns)
    for wrong in ("weight", 3, 1.5):
        with pytest.raises(ValueError, match="feature: expected"):
            plots.component_plane(som, wrong)
    pyplot.close("all")


def test_samples_without_a_label_have_no_vote(digits):
    X = digits[0][:60]
    som = SOFM(3, n_epochs=2).fit(X)
    y = np.array(["a", "b", None], object)[np.arange(60) % 3]
    known = np.not_equal(y, None).astype(bool)
    found = sofm.label_map(som, X, y)
    np.testing.assert_array_equal(found, sofm.label_map(som, X[known], y[known].astype(str)))
    weights = np.arange(60.0)
    found = sofm.label_map(som, X, y, weights)
    some = sofm.label_map(som, X[known], y[known].astype(str), weights[known])
    np.testing.assert_array_equal(found, some)
    assert sofm.label_map(som, X, [None] * 60).ravel().tolist() == [None] * 3
    with pytest.raises(ValueError, match="y: expected labels that can be sorted"):
        sofm.label_map(som, X, [1, "a"] * 29 + [None, None])
