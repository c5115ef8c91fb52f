"""Grid, neighbourhoods, decay, and the batch and online rules beside their naive twins."""

import itertools

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rejuvenet.sofm import SOFM, Grid
from rejuvenet.sofm.neighborhood import NEIGHBORHOODS, decayed, smooth

SHAPES = [(1, 1), (1, 7), (4, 3), (2, 6)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("periodic", [False, True])
def test_distances(shape, topology, periodic):
    rows, columns = shape
    grid = Grid(rows, columns, topology, periodic)
    K = rows * columns
    expected = [
        [naive.grid_distance(a, b, rows, columns, topology == "hexagonal", periodic)
         for b in range(K)] for a in range(K)
    ]  # fmt: skip
    np.testing.assert_allclose(grid.distances(), expected, atol=1e-12)


def test_neighbours_of_an_inner_node():
    middle = 12
    others = np.array([k for k in range(25) if k != middle])
    assert Grid(5, 5).adjacent(middle, others).sum() == 8
    assert Grid(5, 5, "hexagonal").adjacent(middle, others).sum() == 6
    assert Grid(1, 25).adjacent(middle, others).sum() == 2
    assert Grid(1, 25, periodic=True).adjacent(0, np.arange(1, 25)).sum() == 2
    assert Grid(4, 4, "hexagonal", True).adjacent(0, np.arange(1, 16)).sum() == 6


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("periodic", [False, True])
def test_touching_is_what_is_adjacent(topology, periodic):
    for rows, columns in itertools.product(range(1, 7), repeat=2):
        if topology == "hexagonal" and periodic and rows % 2 and rows > 1:
            continue
        grid = Grid(rows, columns, topology, periodic)
        every = np.arange(rows * columns)
        touch = grid.adjacent(every[:, None], every[None, :])
        np.fill_diagonal(touch, False)
        np.testing.assert_array_equal(grid.touching(), np.argwhere(touch))


@pytest.mark.parametrize("name", sorted(NEIGHBORHOODS))
def test_neighborhood_values(name):
    d = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 4.0])
    expected = [naive.h(name, float(x), 1.5) for x in d]
    np.testing.assert_allclose(NEIGHBORHOODS[name](d, 1.5), expected, atol=1e-15)


@pytest.mark.parametrize("name", sorted(NEIGHBORHOODS))
@pytest.mark.parametrize("sigma", [1e-300, 1e-160, 1e-8, 1e8, 1e160, 1e300])
def test_neighborhood_of_any_width(name, sigma):
    d = np.array([0.0, 0.5, 1.0, 1e3, 1e5])
    with np.errstate(all="raise"):
        h = NEIGHBORHOODS[name](d, sigma)
    expected = np.ones(5) if sigma > 1 else np.array([1.0, 0, 0, 0, 0])
    np.testing.assert_allclose(h, expected, atol=1e-2)


@pytest.mark.parametrize("decay", ["geometric", "linear", "asymptotic"])
@pytest.mark.parametrize("sigma", [(1e300, 1e-300), (1e-300, 1e-300), (1e300, 1e300)])
def test_a_schedule_of_any_width(decay, sigma):
    values = [decayed(*sigma, t, 5, decay) for t in range(5)]
    assert (values[0], values[-1]) == sigma
    assert all(a >= b > 0 for a, b in itertools.pairwise(values))
    X = np.random.default_rng(0).random((30, 2))
    for name in sorted(NEIGHBORHOODS):
        rule = "online" if name == "mexican_hat" else "batch"
        som = SOFM(
            (2, 3), neighborhood=name, algorithm=rule, sigma=sigma, decay=decay, n_epochs=3
        ).fit(X)
        assert np.isfinite(som.codebook_).all()


@pytest.mark.parametrize("decay", ["geometric", "linear", "asymptotic"])
def test_decay_falls_from_start_to_end(decay):
    values = [decayed(9.0, 0.5, t, 12, decay) for t in range(12)]
    assert values[0] == pytest.approx(9)
    assert values[-1] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(values))
    assert decayed(9.0, 0.5, 0, 1, decay) == pytest.approx(0.5)


@given(
    shape=st.sampled_from(SHAPES),
    topology=st.sampled_from(["rectangular", "hexagonal"]),
    periodic=st.booleans(),
    name=st.sampled_from([n for n in sorted(NEIGHBORHOODS) if n != "mexican_hat"]),
    sigma=st.floats(0.3, 5),
    seed=st.integers(0, 1000),
)
def test_smoothing_is_the_product_with_h(shape, topology, periodic, name, sigma, seed):
    rng = np.random.default_rng(seed)
    K = shape[0] * shape[1]
    S, n = rng.standard_normal((K, 3)), rng.integers(0, 3, K).astype(float)
    S[n == 0] = 0
    H = naive.neighborhood_matrix(name, sigma, *shape, topology == "hexagonal", periodic)
    numerator, denominator = smooth(Grid(*shape, topology, periodic), name, sigma, S, n)
    np.testing.assert_allclose(numerator, H @ S, atol=1e-12)
    np.testing.assert_allclose(denominator[:, 0], H @ n, atol=1e-12)


@pytest.mark.parametrize("shape", [6, (3, 4)])
@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("name", ["gaussian", "exponential", "bubble", "cut_gaussian"])
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_rule(shape, topology, name, weighted):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((60, 4))
    weights = rng.random(60) if weighted else None
    rows, columns = (1, shape) if isinstance(shape, int) else shape
    W = X[: rows * columns].copy()
    som = SOFM(shape, topology=topology, neighborhood=name, sigma=(2, 0.5), init=W, n_epochs=3)
    som.fit(X, sample_weight=weights)
    for sigma in (2, 1, 0.5):
        H = naive.neighborhood_matrix(name, sigma, rows, columns, topology == "hexagonal")
        W = naive.batch_epoch(X, W, H, weights)
    np.testing.assert_allclose(som.codebook_, W, atol=1e-10)
    np.testing.assert_array_equal(som.labels_, naive.winners(X, W))


@pytest.mark.parametrize("topology", ["rectangular", "hexagonal"])
@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "mexican_hat"])
def test_online_rule(topology, periodic, name):
    rng = np.random.default_rng(6)
    X = rng.standard_normal((30, 3))
    W = rng.standard_normal((12, 3))
    som = SOFM(
        (4, 3), topology=topology, periodic=periodic, neighborhood=name, algorithm="online",
        init=W, n_epochs=2, sigma=(1.5, 0.7), learning_rate=(0.3, 0.1), random_state=4,
    ).fit(X)  # fmt: skip
    random = np.random.RandomState(4)
    for sigma, alpha in [(1.5, 0.3), (0.7, 0.1)]:
        H = naive.neighborhood_matrix(name, sigma, 4, 3, topology == "hexagonal", periodic)
        W = naive.online_epoch(X, random.permutation(30), W, H, alpha)
    np.testing.assert_allclose(som.codebook_, W, atol=1e-10)


def test_a_weight_of_two_is_a_sample_shown_twice():
    X = np.array([[1.0, 2.0]])
    options = dict(
        shape=2, init=[[0.0, 0.0], [5.0, 5.0]], algorithm="online", n_epochs=1, learning_rate=0.1
    )
    once = SOFM(**options).fit(X, sample_weight=[2.0])
    twice = SOFM(**options).fit(np.repeat(X, 2, axis=0))
    np.testing.assert_allclose(once.codebook_, twice.codebook_)


def test_a_large_map_is_smoothed_in_little_memory():
    sums = np.zeros((10_000, 1))
    counts = np.zeros(10_000)
    sums[5000], counts[5000] = 3.0, 1.0
    for grid in (Grid(1, 10_000), Grid(100, 100), Grid(100, 100, "hexagonal")):
        numerator, denominator = smooth(grid, "gaussian", 2.0, sums, counts)
        assert denominator[5000, 0] == 1
        assert numerator[5001] / denominator[5001] == pytest.approx(3.0)


def test_nodes_that_run_away_are_an_error():
    X = np.random.default_rng(0).standard_normal((300, 4))
    som = SOFM(
        (6, 6), algorithm="online", neighborhood="mexican_hat", learning_rate=1.0, random_state=0
    )
    with pytest.raises(FloatingPointError, match="smaller learning_rate"):
        som.fit(X)
