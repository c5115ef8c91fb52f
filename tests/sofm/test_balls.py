"""Panels are left out only where they cannot hold a winner, and on a line most are."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rejuvenet.sofm import SOFM, rounding
from rejuvenet.sofm.kernels import balls, prepared, tile, vectors
from test_kernels import begun


def line(rng, n_nodes, n_features, step):
    """Nodes in a row, each a small random step from the one before."""
    return np.cumsum(step * rng.standard_normal((n_nodes, n_features)), axis=0)


def searched(X, W, q=0, n=1):
    """The nearest nodes, and the share of scores that were computed."""
    ready = begun(X, W, q, with_balls=balls.has_balls(len(W))).prepare(W)
    nearest, words = np.empty((len(X), n), np.int32), np.empty(rounding.WORDS, np.int64)
    scored = ready.search(
        X, 0, len(X), None, prepared.NO_GRIDS, prepared.NO_NODES, nearest, *prepared.NO_SUMS, words
    )
    return nearest, scored / (len(X) * len(ready.panels))


@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 5, 97, 400]),
    n_features=st.sampled_from([1, 3, 16, 40]),
    n_nodes=st.sampled_from([128, 130, 257, 300]),
    step=st.sampled_from([1e-4, 0.03, 1.0]),
    noise=st.sampled_from([0.0, 1e-3, 0.5]),
    offset=st.sampled_from([0.0, 1e3]),
    dtype=st.sampled_from(["f4", "f8"]),
    directions=st.booleans(),
)
def test_winners_on_a_line_are_those_of_float64(
    seed, n, n_features, n_nodes, step, noise, offset, dtype, directions
):
    rng = np.random.default_rng(seed)
    W = (line(rng, n_nodes, n_features, step) + offset).astype(dtype)
    picked = rng.integers(0, n_nodes, n)
    X = (W[picked] + noise * step * rng.standard_normal((n, n_features))).astype(dtype)
    q = 7 if directions and n_features > 7 else 0
    labels, _ = searched(X, W, q)
    assert naive.is_winner(X, W, labels[:, 0])
    two, _ = searched(X, W, q, 2)
    d = np.sort(naive.squared_distances(X, W), axis=1)
    found = naive.squared_distances(X, W)[np.arange(n)[:, None], two]
    np.testing.assert_array_equal(two[:, 0], labels[:, 0])
    assert (found[:, 1] <= d[:, 1] * (1 + 1e-13)).all()
    assert (two[:, 0] != two[:, 1]).all()


def chosen(X, W, q, wanted):
    """Which panels (n, n_panels) are chosen for every sample."""
    prepare = begun(X, W, q, with_balls=True).prepare
    ready = prepare(W)
    n, width = len(X), len(ready.balls.known.T)
    x = ((X - prepare.frame.centre) * prepare.frame.scale).astype("f4")
    squares = (x.astype("f8") ** 2).sum(axis=1)
    if q:
        axes = ready.directions[:, 1:].transpose(0, 2, 1).reshape(-1, X.shape[1])[:q]
        p = x @ axes.T
        rest = np.maximum(squares - (p.astype("f8") ** 2).sum(axis=1), 0)
        x = np.column_stack([p, np.sqrt(rest + ready.bounds[0] * squares)]).astype("f4")
    means = ready.balls.panels.transpose(0, 2, 1).reshape(width, -1)
    scores = np.ascontiguousarray(means[:, 0] + x @ means[:, 1:].T)
    reaches, limits = np.empty(n, "f4"), np.empty(n, "f4")
    pairs, firsts = np.empty(n * len(ready.panels) + 8, np.int64), np.empty(n + 1, np.int64)
    balls.choose_panels(
        n, scores, ready.balls.known, wanted, ready.bounds[3], squares, x, q, reaches, limits,
        pairs, firsts,
    )  # fmt: skip
    result = np.zeros((n, len(ready.panels)), bool)
    pairs = pairs[: firsts[n]]
    result[pairs >> balls.ROW_BITS, pairs & (balls.ROW - 1)] = True
    assert (np.diff(firsts) == result.sum(axis=1)).all()
    return result


@given(
    seed=st.integers(0, 10**6),
    n_features=st.sampled_from([1, 2, 3, 12]),
    n_nodes=st.sampled_from([128, 257, 300]),
    offset=st.sampled_from([0.0, 1e3]),
    q=st.sampled_from([0, 1, 3, 7]),
)
def test_panels_of_the_nearest_nodes_are_chosen(seed, n_features, n_nodes, offset, q):
    rng = np.random.default_rng(seed)
    panel = np.arange(n_nodes) // vectors.PANEL
    # Balls of very different size, so that one is often reached across the middle of another.
    places = rng.standard_normal((panel[-1] + 1, n_features))
    sizes = 10 ** rng.uniform(-4, 0.5, (panel[-1] + 1, 1))
    W = places[panel] + sizes[panel] * rng.standard_normal((n_nodes, n_features)) + offset
    X = W[rng.integers(0, n_nodes, 300)] + rng.standard_normal((300, n_features)) * 10 ** (
        rng.uniform(-4, 0.5, (300, 1))
    )
    X, W = X.astype("f4"), W.astype("f4")
    d = naive.squared_distances(X, W)
    nearest = np.argsort(d, axis=1, kind="stable")
    for wanted in (1, 2):
        found = chosen(X, W, q if q < n_features else 0, wanted)
        for j in range(wanted):
            assert found[np.arange(300), panel[nearest[:, j]]].all()


@pytest.mark.parametrize("q", [0, 7])
def test_most_panels_of_a_line_are_left_out(q):
    rng = np.random.default_rng(0)
    W = line(rng, 512, 40, 0.1).astype("f4")
    X = W[rng.integers(0, 512, 3000)] + 0.1 * rng.standard_normal((3000, 40)).astype("f4")
    assert searched(X, W, q)[1] < 0.25


def test_balls_hold_their_nodes():
    rng = np.random.default_rng(1)
    W = rng.standard_normal((130, 5))
    made = balls.Balls(*W.shape)
    made.enclose(W)
    for p, first in enumerate(range(0, 130, vectors.PANEL)):
        nodes = W[first : first + vectors.PANEL]
        distances = np.sort(np.sqrt(((nodes - nodes.mean(axis=0)) ** 2).sum(axis=1)))
        expected = (nodes.mean(axis=0) ** 2).sum(), distances[-1], *distances[:2]
        np.testing.assert_allclose(made.means[p], nodes.mean(axis=0))
        np.testing.assert_allclose(made.extents[p], expected)
    made.enclose(W[:129])
    assert np.isinf(made.extents[-1, 3]), "one node has no second"


@given(st.integers(0, 10**6))
def test_instructions_for_balls_equal_their_twins(seed):
    rng = np.random.default_rng(seed)
    P = vectors.PANEL
    scores = rng.random(2 * P).astype("f4") + np.float32(0.1)  # no root of nearly nothing
    known = rng.random((5, 2 * P)).astype("f4")
    square, rest, limit = rng.random(3).astype("f4")
    at, balls_at = scores.ctypes.data, known.ctypes.data
    for place in (0, P):
        for core in (3, 4):
            arguments = place, 2 * P, core, square, rest
            found = vectors.reach_vector(at, place, balls_at, *arguments)
            wanted = vectors.reach_portable(scores, place, known.reshape(-1), *arguments)
            assert found == pytest.approx(wanted, rel=1e-6)
        found = vectors.within_vector(at, place, balls_at, place, limit, square)
        limits = limit + square * known[0, place : place + P].astype("f8")
        clear = np.abs(scores[place : place + P] - limits) > 1e-6
        portable = vectors.within_portable(scores, place, known.reshape(-1), place, limit, square)
        for j in np.flatnonzero(clear):
            bit = scores[place + j] <= limits[j]
            assert found >> j & 1 == portable >> j & 1 == bit


@pytest.mark.parametrize("byte", [0, 1, 0b10000000, 0b01010110, 255])
def test_positions_of_bits(byte):
    bits = [j for j in range(8) if byte >> j & 1]
    assert vectors.N_BITS[byte] == len(bits)
    for fast in (True, False):
        numbers = np.zeros(20, np.int64)
        if fast:
            table = vectors.POSITIONS.ctypes.data
            vectors.positions_vector(numbers.ctypes.data, 3, 1 << 40, byte, table)
        else:
            vectors.positions_portable(numbers, 3, 1 << 40, byte, vectors.POSITIONS.reshape(-1))
        assert (numbers[3 : 3 + len(bits)] - (1 << 40)).tolist() == bits
        assert not numbers[:3].any()
        assert not numbers[11:].any()


@pytest.mark.parametrize("kernel", [tile.score_gathered_vector, tile.score_gathered_portable])
def test_gathered_tile_equals_matrix_product(kernel):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 9)).astype("f4")
    W, bias = rng.standard_normal((vectors.PANEL, 9)).astype("f4"), rng.random(vectors.PANEL)
    panels = np.empty((1, 10, vectors.PANEL), "f4")
    tile.pack_panels(W.astype("f8"), bias, panels)
    out = np.zeros((50, vectors.PANEL), "f4")
    low = np.full((40, vectors.WIDTH), np.inf, "f4")
    rows = rng.permutation(40)[: tile.TILE_ROWS]
    places = rng.permutation(50)[: tile.TILE_ROWS]
    arrays = np.append(0, rows), np.append(0, places * vectors.PANEL), x, panels, out, low
    if kernel is tile.score_gathered_vector:
        at = [array.ctypes.data for array in arrays]
    else:
        at = [array.reshape(-1) for array in arrays]
    kernel(at[0], at[1], 1, at[2], 9, at[3], 0, 9, at[4], at[5], vectors.WIDTH)
    expected = bias - x[rows] @ W.T
    np.testing.assert_allclose(out[places], expected, atol=2e-5)
    np.testing.assert_array_equal(
        low[rows], out[places].reshape(tile.TILE_ROWS, -1, vectors.WIDTH).min(axis=1)
    )
    assert not np.delete(out, places, axis=0).any()


def test_epochs_with_and_without_balls_are_the_same():
    rng = np.random.default_rng(3)
    W = line(rng, 300, 16, 0.2).astype("f4")
    X = W[rng.integers(0, 300, 2000)] + 0.1 * rng.standard_normal((2000, 16)).astype("f4")
    for q in (0, 7):
        sums, counts, error = begun(X, W, q).epoch(W)
        s, n, e = begun(X, W, q, with_balls=True).epoch(W)
        assert (s.tobytes(), n.tobytes(), e) == (sums.tobytes(), counts.tobytes(), error)


def test_a_line_is_the_same_for_any_number_of_threads():
    rng = np.random.default_rng(4)
    X = (line(rng, 20_000, 16, 0.05) + 0.1 * rng.standard_normal((20_000, 16))).astype("f4")
    first, *others = (SOFM(256, n_epochs=6, n_jobs=n).fit(X) for n in (1, 2, 3))
    for som in others:
        np.testing.assert_array_equal(som.codebook_, first.codebook_)
        np.testing.assert_array_equal(som.labels_, first.labels_)
    assert naive.is_winner(X[::50], first.codebook_, first.labels_[::50])
