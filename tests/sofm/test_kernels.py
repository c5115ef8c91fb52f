"""Every fast kernel equals its naive twin."""

import os
import subprocess
import sys

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rejuvenet.sofm import batch, search, tile
from rejuvenet.sofm.samples import InMemory


def begun(X, W, directions=None, threads=1, weights=None, pool=None):
    samples = InMemory(X, weights)
    samples.begin(W, directions, threads, pool)
    return samples


def principal(X, q):
    return np.linalg.svd(X - X.mean(axis=0), full_matrices=False)[2][:q].astype("f4")


@pytest.mark.parametrize("n_features", [1, 3, 16, 49])
@pytest.mark.parametrize("n_nodes", [1, 16, 17, 100, 300])
@pytest.mark.parametrize("kernel", [tile.score_tile, tile.score_tile_portable])
def test_tile_equals_matrix_product(kernel, n_features, n_nodes):
    rng = np.random.default_rng(n_features * 1000 + n_nodes)
    x = rng.standard_normal((2 * tile.TILE_ROWS, n_features)).astype("f4")
    W = rng.standard_normal((n_nodes, n_features)).astype("f4")
    bias = rng.standard_normal(n_nodes).astype("f4")
    panels = batch.packed(W, bias)
    out = np.full((len(x), len(panels) * tile.PANEL), np.nan, "f4")
    minima = np.full((len(x), tile.n_minima(len(panels))), np.inf, "f4")
    for p in range(len(panels)):
        for row in range(0, len(x), tile.TILE_ROWS):
            kernel(x, row, panels, p, n_features, out, minima)
    np.testing.assert_allclose(out[:, :n_nodes], naive.scores(x, W, bias), atol=2e-5)
    assert np.isinf(out[:, n_nodes:]).all()
    for entry in range(minima.shape[1]):
        group, lane = divmod(entry, tile.WIDTH)
        columns = np.arange(out.shape[1])
        mine = (columns // (tile.GROUP * tile.PANEL) == group) & (columns % tile.WIDTH == lane)
        np.testing.assert_array_equal(minima[:, entry], out[:, mine].min(axis=1))


def test_tile_is_chosen_for_the_processor():
    assert tile.choose_tile({"avx512f": True, "avx2": True, "fma": True}, "x86_64") == (6, 64, 16)
    assert tile.choose_tile({"avx2": True, "fma": True}, "x86_64") == (6, 16, 8)
    assert tile.choose_tile({"avx2": True}, "x86_64") == (3, 16, 4)
    assert tile.choose_tile({}, "arm64") == (6, 16, 4)
    for features, machine in [({"avx512f": True}, "x86_64"), ({}, "arm64"), ({}, "i686")]:
        _, panel, width = tile.choose_tile(features, machine)
        assert panel % width == 0


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 200),
    n_features=st.sampled_from([1, 2, 7, 33, 64]),
    n_nodes=st.sampled_from([1, 2, 9, 70, 130]),
    dtype=st.sampled_from(["f4", "f8"]),
    pruned=st.booleans(),
    weighted=st.booleans(),
)
def test_epoch_equals_naive(seed, n, n_features, n_nodes, dtype, pruned, weighted):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n_features)).astype(dtype)
    W = rng.standard_normal((n_nodes, n_features)).astype(dtype)
    weights = rng.random(n) if weighted else None
    directions = None
    if pruned and n_features >= 33:
        directions = np.linalg.qr(rng.standard_normal((n_features, 15)))[0].T.astype("f4")
    samples = begun(X, W, directions, weights=weights)
    if directions is not None:
        samples.sweep._choose = lambda nodes: 15
    for _ in range(2):  # the second time starts from the winners of the first
        sums, counts, error = samples.epoch(W)
    labels = samples.sweep.labels
    np.testing.assert_array_equal(labels, naive.winners(X, W))
    S, N = naive.sums_and_counts(X, labels, n_nodes, weights)
    np.testing.assert_allclose(sums, S, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(counts, N, rtol=1e-12, atol=1e-12)
    distances = np.sqrt(naive.squared_distances(X, W).min(axis=1))
    np.testing.assert_allclose(error, np.average(distances, weights=weights) * N.sum(), rtol=1e-3)
    nearest, first = samples.two_nearest(W)
    order = np.argsort(naive.squared_distances(X, W), axis=1, kind="stable")
    np.testing.assert_array_equal(nearest[:, : min(2, n_nodes)], order[:, :2])
    np.testing.assert_allclose(first, distances, rtol=1e-12)


def adversarial():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((300, 40)).astype("f4")
    W = rng.standard_normal((90, 40)).astype("f4")
    yield "offset 1000", base + 1000, W + 1000
    yield "offset 1e6", base + np.float32(1e6), W + np.float32(1e6)
    yield "huge", base * np.float32(1e25), W * np.float32(1e25)
    yield "tiny", base * np.float32(1e-30), W * np.float32(1e-30)
    yield "duplicate nodes", base, np.repeat(W[:30], 3, axis=0)
    yield "nodes one ulp apart", base, np.nextafter(np.repeat(W[:45], 2, axis=0), np.float32(9))
    yield "samples are nodes", np.repeat(W, 3, axis=0), W
    middles = (W[:89] + W[1:]) / 2
    yield "near ties", middles, W
    yield "constant", np.ones((20, 40), "f4"), np.ones((5, 40), "f4")
    outlier = base.copy()
    outlier[7] *= 1e6
    yield "outlier", outlier, np.concatenate([W, outlier[7:8]])
    yield "float64, offset 1e8", base.astype("f8") + 1e8, W.astype("f8") + 1e8


@pytest.mark.parametrize(("name", "X", "W"), list(adversarial()), ids=[a[0] for a in adversarial()])
@pytest.mark.parametrize("q", [0, 7, 15])
def test_winners_are_those_of_float64(name, X, W, q):
    directions = principal(X.astype("f8"), 15) if q else None
    samples = begun(X, W, directions)
    samples.sweep._choose = lambda nodes: q
    samples.sweep.epoch(W)
    assert samples.sweep.q == q
    labels = samples.sweep.labels
    assert naive.is_winner(X, W, labels)
    if name == "duplicate nodes":
        assert (labels % 3 == 0).all(), "ties go to the lowest index"


@pytest.mark.parametrize("q", [7, 15, 31])
def test_projected_scores_never_exceed_true_ones(q):
    rng = np.random.default_rng(q)
    X = (rng.standard_normal((200, 64)) * np.geomspace(1, 1e-3, 64)).astype("f4")
    W = X[:50] + rng.standard_normal((50, 64)).astype("f4") * np.float32(0.01)
    samples = begun(X, W, principal(X, 31))
    sweep = samples.sweep
    nodes = batch.Nodes(W, sweep.centre, sweep.scale)
    sweep._projected_nodes = np.empty((len(W), sweep.width), "f4")
    sweep._project(W, 0, len(W), sweep._projected_nodes)
    column = int(sweep.levels[-1]) + int(np.searchsorted(sweep.levels, q))
    p, r = sweep.projected[:, :q].astype("f8"), sweep.projected[:, column].astype("f8")
    of_nodes = sweep._projected_nodes.astype("f8")
    v, t = of_nodes[:, :q], of_nodes[:, column]
    scale = float(sweep.scale)
    x = (X.astype("f8") - sweep.centre) * scale
    w = (W.astype("f8") - sweep.centre) * scale
    slack = search.gamma_projected(64, q)
    margin = slack * ((x**2).sum(axis=1)[:, None] / 2 + (w**2).sum(axis=1))
    assert (p @ v.T + r[:, None] * t >= x @ w.T - margin).all()
    assert nodes.gamma > 0


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60), st.randoms())
def test_sums_on_the_grid_do_not_depend_on_order(values, random):
    big = search.grid_constant(max(map(abs, values)), len(values))
    rounded = [(v + big) - big for v in values]
    total = sum(rounded)
    random.shuffle(rounded)
    assert sum(rounded) == total
    np.testing.assert_allclose(total, sum(values), atol=1e-9 * max(map(abs, values)))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bits_do_not_depend_on_threads_or_blocks(dtype):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((5000, 40)).astype(dtype)
    W = X[:64].copy()
    reference = None
    for threads in (1, 2, 3, 7):
        samples = begun(X, W, principal(X, 7), threads=threads)
        sums, counts, error = samples.epoch(W)
        got = sums.tobytes(), counts.tobytes(), error
        assert reference is None or got == reference
        reference = got


def test_projections_are_recomputed_where_they_do_not_fit(monkeypatch):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((9000, 33)).astype("f4")
    W = X[:20].copy()
    monkeypatch.setattr(batch, "PROJECTED_BYTES", 0)
    samples = begun(X, W, principal(X, 15), threads=2)
    samples.sweep._choose = lambda nodes: 15
    samples.epoch(W)
    assert samples.sweep.projected is None
    np.testing.assert_array_equal(samples.sweep.labels, naive.winners(X, W))


def test_kernels_without_the_jit():
    code = """
import naive, numpy as np
from rejuvenet.sofm import SOFM, tile
assert tile.score_tile is tile.score_tile_portable
rng = np.random.default_rng(0)
X = rng.standard_normal((40, 5)).astype("f4")
som = SOFM(shape=(2, 3), n_epochs=2, n_jobs=1).fit(X)
assert (som.labels_ == naive.winners(X, som.codebook_)).all()
X[3, 1] = np.nan
labels = SOFM(shape=4, n_epochs=2, missing="ignore").fit_predict(X)
SOFM(shape=4, n_epochs=2, algorithm="online").fit(np.nan_to_num(X))
from scipy import sparse
SOFM(shape=4, n_epochs=2).fit(sparse.random(30, 6, 0.5, format="csr", random_state=0))
print("fine", som.quantization_error_)
"""
    here = os.path.dirname(__file__)
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": here}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 5)).astype("f4")
    from rejuvenet.sofm import SOFM

    jitted = SOFM(shape=(2, 3), n_epochs=2, n_jobs=1).fit(X).quantization_error_
    assert float(run.stdout.split()[-1]) == pytest.approx(jitted, rel=1e-6)
