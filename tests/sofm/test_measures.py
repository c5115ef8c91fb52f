"""Measures beside their naive twins; labels, clusters and pictures of nodes."""

import naive
import numpy as np
import pytest
from rejuvenet import sofm
from rejuvenet.sofm import SOFM


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


def test_topographic_product(fitted):
    som, _ = fitted
    expected = naive.topographic_product(som.codebook_, som.grid_.distances())
    assert sofm.topographic_product(som) == pytest.approx(expected, rel=1e-6)


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
    from rejuvenet.sofm import plots

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
    figure = plots.component_planes(som, [1, 2, 3, 4, 5])
    assert len(figure.axes) == 5
    figure.savefig(tmp_path / "planes.png")
    assert (tmp_path / "planes.png").stat().st_size > 1000
    pyplot.close("all")
