"""Every fast kernel equals its naive twin."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rejuvenet.sofm import SOFM, rounding
from rejuvenet.sofm.blocks import Blocks
from rejuvenet.sofm.kernels import prepared, tile, vectors
from rejuvenet.sofm.samples import WORTH_MOVING, InMemory
from rejuvenet.sofm.threads import Threads

ALONE = Threads()


class OneWay(prepared.Preparation):
    """Always searches in ``q`` directions (0 is all features), with balls or without."""

    def __init__(self, frame, q, with_balls=False):
        self.frame, self.q, self.with_balls, self.prepared = frame, q, with_balls, None

    def __call__(self, codebook):
        if self.prepared is None:
            self.prepared = prepared.Prepared(self.frame, codebook)
        self.prepared.fill(codebook)
        if self.q:
            directions = prepared.directions_of(self.prepared.w, self.q, None)
            self.prepared.in_directions(*directions, self.with_balls)
        else:
            self.prepared.in_all_features(self.with_balls)
        return self.prepared


def begun(X, W, q=0, threads=ALONE, weights=None, with_balls=False):
    """Samples that are searched in one way."""
    samples = InMemory(X, weights)
    samples.begin(W, threads)
    samples.prepare = OneWay(samples.prepare.frame, q, with_balls)
    return samples


@pytest.fixture
def threads():
    pools = []

    def make(count):
        pools.append(Threads(count, ThreadPoolExecutor(count)))
        return pools[-1]

    yield make
    for made in pools:
        made.pool.shutdown()


@pytest.mark.parametrize("n_features", [1, 3, 16, 49])
@pytest.mark.parametrize("n_nodes", [1, 16, 17, 100, 300])
@pytest.mark.parametrize("kernel", [tile.score_tile_vector, tile.score_tile_portable])
def test_tile_equals_matrix_product(kernel, n_features, n_nodes):
    rng = np.random.default_rng(n_features * 1000 + n_nodes)
    x = rng.standard_normal((2 * tile.TILE_ROWS, n_features)).astype("f4")
    W = rng.standard_normal((n_nodes, n_features)).astype("f4")
    bias = rng.standard_normal(n_nodes).astype("f4")
    panels = prepared.packed(W, bias)
    out = np.full((len(x), len(panels) * vectors.PANEL), np.nan, "f4")
    minima = np.full((len(x), tile.n_groups(len(panels)) * vectors.WIDTH), np.inf, "f4")
    at = [a.ctypes.data if "vector" in kernel.__name__ else a.reshape(-1)
          for a in (x, panels, out, minima)]  # fmt: skip
    for p in range(len(panels)):
        for row in range(0, len(x), tile.TILE_ROWS):
            kernel(
                at[0], row * n_features, n_features,
                at[1], p * (1 + n_features) * vectors.PANEL, n_features,
                at[2], row * out.shape[1] + p * vectors.PANEL, out.shape[1],
                at[3], row * minima.shape[1] + p // tile.GROUP * vectors.WIDTH, minima.shape[1],
            )  # fmt: skip
    np.testing.assert_allclose(out[:, :n_nodes], naive.scores(x, W, bias), atol=2e-5)
    assert np.isinf(out[:, n_nodes:]).all()
    for entry in range(minima.shape[1]):
        group, lane = divmod(entry, vectors.WIDTH)
        columns = np.arange(out.shape[1])
        mine = (columns // (tile.GROUP * vectors.PANEL) == group) & (
            columns % vectors.WIDTH == lane
        )
        np.testing.assert_array_equal(minima[:, entry], out[:, mine].min(axis=1))


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_vector_instructions_equal_their_twins(seed, n_vectors):
    rng = np.random.default_rng(seed)
    row = rng.integers(0, 9, n_vectors * vectors.WIDTH + vectors.GROUP_NODES).astype("f4")
    for offset in (0, 3):
        limit = np.float32(rng.integers(0, 9))
        lanes = vectors.lanes_under_vector(row.ctypes.data, offset, limit)
        assert lanes == vectors.lanes_under_portable(row, offset, limit)
        assert [lanes >> lane & 1 for lane in range(vectors.WIDTH)] == (
            row[offset : offset + vectors.WIDTH] <= limit
        ).tolist()
        nodes = vectors.nodes_under_vector(row.ctypes.data, offset, limit)
        assert nodes % 2**64 == vectors.nodes_under_portable(row, offset, limit)
        if lanes:
            assert vectors.lowest_vector(lanes) == vectors.lowest_portable(lanes)
        least = vectors.smallest_vector(row.ctypes.data, offset, n_vectors)
        assert least == vectors.smallest_portable(row, offset, n_vectors)


@pytest.mark.parametrize(("D", "dtype"), [(1, "f4"), (3, "f8"), (49, "f4"), (16, "f8")])
def test_rows_in_two_folds(D, dtype):
    rng = np.random.default_rng(D)
    X, nodes = rng.lognormal(0, 5, (90, D)).astype(dtype), rng.integers(0, 7, 40)
    bigs = np.full((1, D), 1.5 * 2.0**40)
    for weights in (np.empty(0), rng.random(90)):
        sums, counts = np.ones((7, 2, D)), np.zeros((7, 1, 1))
        rounding.add_rows(X, 30, 40, weights, 1.0, nodes, bigs, np.empty((0, 1)), sums, counts)
        terms = X[30:70].astype("f8") * (weights[30:70, None] if len(weights) else 1)
        coarse = np.rint(terms * 2.0**12) / 2.0**12
        expected = np.ones((7, 2, D))
        np.add.at(expected, nodes, np.stack([coarse, terms - coarse], axis=1))
        np.testing.assert_array_equal(sums, expected)


def test_tile_is_chosen_for_the_processor():
    choose = vectors.choose_tile
    assert choose({"avx512f": True, "avx2": True, "fma": True}, "x86_64") == (12, 16, 16)
    assert choose({"avx2": True, "fma": True}, "x86_64") == (6, 16, 8)
    assert choose({"avx2": True}, "x86_64") == (3, 16, 4)
    assert choose({}, "arm64") == (6, 16, 4)
    for features, machine in [({"avx512f": True}, "x86_64"), ({}, "arm64"), ({}, "i686")]:
        _, panel, width = choose(features, machine)
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
    samples = begun(X, W, 15 if pruned and n_features >= 33 else 0, weights=weights)
    sums, counts, error = samples.epoch(W)
    labels = samples.nearest(W, 1)[0][:, 0]
    np.testing.assert_array_equal(labels, naive.winners(X, W))
    S, N = naive.sums_and_counts(X, labels, n_nodes, weights)
    np.testing.assert_allclose(sums, S, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(counts, N, rtol=1e-12, atol=1e-12)
    distances = np.sqrt(naive.squared_distances(X, W).min(axis=1))
    np.testing.assert_allclose(error, np.average(distances, weights=weights) * N.sum(), rtol=1e-12)
    nearest, again = samples.nearest(W, 2)
    assert again == error
    order = np.argsort(naive.squared_distances(X, W), axis=1, kind="stable")
    np.testing.assert_array_equal(nearest[:, : min(2, n_nodes)], order[:, :2])


def adversarial():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((300, 40)).astype("f4")
    W = rng.standard_normal((90, 40)).astype("f4")
    yield "offset 1000", base + 1000, W + 1000
    yield "offset 1e6", base + np.float32(1e6), W + np.float32(1e6)
    yield "huge", base * np.float32(1e25), W * np.float32(1e25)
    yield "tiny", base * np.float32(1e-30), W * np.float32(1e-30)
    yield "subnormal", base * np.float32(1e-40), W * np.float32(1e-40)
    yield "float64, huge", np.ldexp(base, 1000, dtype="f8"), np.ldexp(W, 1000, dtype="f8")
    yield "float64, subnormal", np.ldexp(base, -1040, dtype="f8"), np.ldexp(W, -1040, dtype="f8")
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
    samples = begun(X, W, q)
    labels = samples.nearest(W, 1)[0][:, 0]
    two = samples.nearest(W, 2)[0]
    largest = int(np.frexp(np.abs(X).max())[1])
    X, W = np.ldexp(X.astype("f8"), -largest), np.ldexp(W.astype("f8"), -largest)
    assert naive.is_winner(X, W, labels)
    np.testing.assert_array_equal(two[:, 0], labels)
    d = np.sort(naive.squared_distances(X, W), axis=1)[:, 1]
    second = naive.squared_distances(X, W)[np.arange(len(X)), two[:, 1]]
    assert (second <= d * (1 + 1e-13)).all()
    if name == "duplicate nodes":
        assert (labels % 3 == 0).all(), "ties go to the lowest index"
        assert (two[:, 1] == labels + 1).all()


@pytest.mark.parametrize("q", [0, 7, 15, 31])
@pytest.mark.parametrize("spread", [1.0, 1e-3], ids=["far apart", "collapsed"])
def test_scores_never_exceed_true_ones_by_more_than_the_margin(q, spread):
    rng = np.random.default_rng(q)
    X = (rng.standard_normal((200, 64)) * np.geomspace(1, 1e-3, 64)).astype("f4")
    W = (X[:50] * np.float32(spread)).astype("f4")
    prepare = begun(X, W, q).prepare
    frame, ready = prepare.frame, prepare(W)
    scale = float(frame.scale)
    x = (X.astype("f8") - frame.centre) * scale
    w = (W.astype("f8") - frame.centre) * scale
    true = (w**2).sum(axis=1) / 2 - x @ w.T
    coordinates = x.astype("f4")
    if q:
        axes = ready.directions[:, 1:, :].transpose(0, 2, 1).reshape(-1, 64)[:q]
        p = coordinates @ axes.T
        squares = (coordinates.astype("f8") ** 2).sum(axis=1)
        rest = squares - (p.astype("f8") ** 2).sum(axis=1)
        r = np.sqrt(np.maximum(rest, 0) + ready.bounds[0] * squares)
        coordinates = np.column_stack([p, r]).astype("f4")
    panels = ready.panels.transpose(0, 2, 1).reshape(-1, ready.panels.shape[1])[: len(W)]
    scores = panels[:, 0] + coordinates @ panels[:, 1:].T
    squares = (x**2).sum(axis=1)[:, None]
    assert (scores <= true + ready.bounds[1] * squares).all()
    if q == 0:
        assert (scores >= true - 3 * ready.bounds[1] * squares - 1e-4 * (w**2).sum(axis=1)).all()


@given(
    st.lists(st.floats(-1e300, 1e300) | st.floats(-1, 1) | st.floats(-1e-300, 1e-300), min_size=1),
    st.randoms(),
)
def test_sums_are_exact_in_any_order(values, random):
    sizes = np.abs(np.array(values)[np.array(values) != 0])
    largest, least = (sizes.max(), sizes.min()) if len(sizes) else (0.0, np.inf)
    bigs = rounding.grids(np.array([largest]), np.array([least]), 53, len(values))
    totals = []
    for _ in range(2):
        sums = np.zeros((1, len(bigs) + 1, 1))
        counts, nodes = np.zeros((1, 1, 1)), np.zeros(len(values), np.int64)
        column, none = np.array(values)[:, None], np.empty((0, 1))
        rounding.add_rows(column, 0, len(values), np.empty(0), 1.0, nodes, bigs, none, sums, counts)
        totals.append(rounding.total(sums)[0, 0])
        random.shuffle(values)
    assert totals == [math.fsum(values)] * 2


@pytest.mark.parametrize("exponents", [0, 20, 250])  # one fold, two, many
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_that_move_add_up_to_the_same_bits(exponents, weighted):
    rng = np.random.default_rng(exponents)
    X = rng.integers(-99, 99, (400, 3)) * 2.0 ** rng.integers(-exponents, exponents + 1, (400, 1))
    weights = rng.random(400) if weighted else None
    W = X[:9].copy()
    samples = begun(X, W, weights=weights)
    shares = []
    for _ in range(12):
        W += rng.normal(0, 0.05, W.shape) * np.abs(W)
        found, expected = samples.epoch(W), begun(X, W, weights=weights).epoch(W)
        assert [np.asarray(f).tobytes() for f in found] == [
            np.asarray(e).tobytes() for e in expected
        ]
        shares.append(samples.moved)
    assert sum(0 < share < WORTH_MOVING for share in shares) > 5


@given(st.lists(st.floats(0, 1e306)), st.sampled_from([1.0, 2.0**-900, 2.0**60]))
def test_errors_are_exact(values, scale):
    words = np.zeros(rounding.WORDS, np.int64)
    for value in values:
        rounding.add_to_error(value, words)
    expected = float(sum(map(Fraction, values)) / Fraction(scale)) if scale >= 1 else None
    assert expected is None or rounding.error_of(words, scale) == expected
    assert rounding.error_of(words) == math.fsum(values)


@pytest.mark.parametrize("spread", [0.1, 3, 30, 300])  # of the exponents: near and far
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_errors_of_blocks_are_exact(spread, scale):
    rng = np.random.default_rng(0)
    rows = np.exp(np.clip(rng.normal(np.log(scale), spread, 256), -700, 700))
    rows[::7] = 0
    for squares in (rows, rows[1:7], rows[:1], np.full(256, np.nextafter(4.0, 0))):
        for weights in (np.empty(0), rng.random(300)):
            words = np.zeros(rounding.WORDS, np.int64)
            rounding.add_errors(squares.copy(), 9, len(squares), weights, words)
            terms = np.sqrt(squares) * (weights[9 : 9 + len(squares)] if len(weights) else 1.0)
            assert rounding.error_of(words) == math.fsum(terms)


@pytest.mark.filterwarnings("ignore:overflow")
def test_sums_that_overflow_are_refused():
    X = np.full((300, 2), 1e306)
    with pytest.raises(ValueError, match="scale X"):
        SOFM(shape=2).fit(X)
    assert np.isfinite(SOFM(shape=2).fit(X * 1e-4).codebook_).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("q", [0, 7])
def test_bits_do_not_depend_on_threads_or_directions(dtype, q, threads):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((5000, 40)).astype(dtype)
    W = X[:64].copy()
    sums, counts, error = begun(X, W).epoch(W)
    for count in (1, 2, 3, 7):
        s, n, e = begun(X, W, q, threads=threads(count)).epoch(W)
        assert (s.tobytes(), n.tobytes(), e) == (sums.tobytes(), counts.tobytes(), error)


def test_the_fastest_way_is_chosen(monkeypatch):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((8000, 64)).astype("f4")
    samples = InMemory(X)
    samples.begin(X[:600], Threads())
    prepare = samples.prepare
    assert prepare.ways == [(q, balls) for q in (0, 7, 15, 31) for balls in (False, True)]
    asked, fastest = [], (7, True)

    def seconds(self, ready, kept):
        asked.append((ready.q, ready.with_balls))
        return 8000.0 if asked[-1] == fastest else 16_000.0

    monkeypatch.setattr(prepared.Preparation, "_time", seconds)
    ready = prepare(X[:600])
    assert (ready.q, ready.with_balls) == fastest
    assert asked == prepare.ways
    assert prepare.prepared.work == 600 * 64, "as if each sample took a second"
    asked.clear()
    fastest = (15, True)
    ready = prepare(X[:600])
    assert asked == [(0, True), (7, False), (7, True), (15, True)], "those next to it"
    assert (ready.q, ready.with_balls) == fastest
    prepare(X[:600])
    asked.clear()
    for _ in range(prepared.EVERY - 1):
        prepare(X[:600])
    assert asked == [], "where nothing has changed, some turns go by"
    prepare(X[:600])
    assert asked == [(7, True), (15, False), (15, True), (31, True)]
    np.testing.assert_array_equal(samples.nearest(X[:600], 1)[0][:, 0], naive.winners(X, X[:600]))
    samples.begin(X[:2], Threads())
    assert samples.prepare.ways == [(0, False)]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("count", [1, 2])
def test_coordinates_that_are_kept_change_no_bit(dtype, count, threads, monkeypatch):
    rng = np.random.default_rng(3)
    X, weights = rng.standard_normal((4000, 300)).astype(dtype), rng.random(4000)
    samples = InMemory(X, weights)
    samples.begin(X[:300], threads(count))
    known, slower = [], False

    def seconds(self, ready, kept):
        if kept.known:
            known.append(len(kept.coordinates))
        return (ready.q != 15) + (0.9 if kept.known and not slower else 1.0) + slower * kept.known

    monkeypatch.setattr(prepared.Preparation, "_time", seconds)
    read = []
    for turn in range(6):
        slower = turn == 4
        W = X[:300] + np.asarray(0.01 * turn, dtype) * X[300:600]
        sums, counts, error = samples.epoch(W)
        read.append(samples.prepare.prepared.kept.known)
        s, n, e = begun(X, W, weights=weights).epoch(W)
        assert (s.tobytes(), n.tobytes(), e) == (sums.tobytes(), counts.tobytes(), error)
    assert read == [False, False, True, True, False, True], "not of the first turn"
    assert samples.prepare.prepared.q == 15
    assert set(known) == {len(samples.prepare.pilot)}
    nearest, error = samples.nearest(W, 2)
    assert samples.prepare.prepared.kept.known
    expected, e = begun(X, W, weights=weights).nearest(W, 2)
    np.testing.assert_array_equal(nearest, expected)
    assert error == e


def test_coordinates_of_other_samples_are_not_kept():
    X = np.random.default_rng(4).standard_normal((4000, 300)).astype("f4")
    blocks = Blocks(lambda: iter([X[:1000], X[1000:]]))
    narrow = InMemory(np.ascontiguousarray(X[:, :48].repeat(3, axis=0)))
    for samples in (blocks, narrow):
        W = samples.take(np.arange(600))
        samples.begin(W, ALONE)
        assert max(samples.prepare.ways)[0]
        for _ in range(4):
            samples.epoch(W)
            assert not len(samples.prepare.prepared.kept.coordinates)


def test_kernels_without_the_jit():
    code = """
import naive, numpy as np
from rejuvenet.sofm import SOFM
from rejuvenet.sofm.kernels import tile
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
from test_kernels import begun
W = rng.standard_normal((130, 5)).astype("f4")
X = W[:30] + rng.standard_normal((30, 5)).astype("f4") / 9
for with_balls in (False, True):
    two = begun(X, W, with_balls=with_balls).nearest(W, 2)[0]
    assert (two == np.argsort(naive.squared_distances(X, W), axis=1)[:, :2]).all()
print("fine", som.quantization_error_)
"""
    here = os.path.dirname(__file__)
    paths = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": paths}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 5)).astype("f4")
    jitted = SOFM(shape=(2, 3), n_epochs=2, n_jobs=1).fit(X).quantization_error_
    assert float(run.stdout.split()[-1]) == pytest.approx(jitted, rel=1e-6)
