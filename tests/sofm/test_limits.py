"""Numbers at the ends of what floats hold: right, or refused in a sentence, never a crash."""

import numpy as np
import pytest
from rejuvenet.sofm import SOFM, SOMRegressor
from scipy import sparse

RNG = np.random.default_rng(0)
X = RNG.random((60, 3))


def test_samples_whose_mean_would_overflow():
    som = SOFM(5, n_epochs=3).fit(X)
    for _ in range(5):
        assert som.predict(np.full((300, 3), 1e307)).max() < 5
    assert som.score(np.full((3, 3), 1.7e308)) == -np.inf


@pytest.mark.parametrize("exponent", [-260, -40, 0, 36, 60, 150, 290])
@pytest.mark.parametrize("n", [1, 5])
def test_equal_rows_of_any_size(exponent, n):
    row = RNG.standard_normal(13) * 10.0**exponent
    som = SOFM(5, n_epochs=5).fit(np.tile(row, (n, 1)))
    np.testing.assert_allclose(som.codebook_, np.tile(row, (5, 1)), rtol=1e-12)
    som.predict(row[None])


def test_a_row_as_large_as_one_can_be():
    largest = np.finfo(np.float64).max
    for share in (2, 4):
        with pytest.raises(ValueError, match="scale X"):
            SOFM(5, n_epochs=1).fit(np.full((1, 3), largest / share))
    som = SOFM(5, n_epochs=1).fit(np.full((1, 3), largest / 8))
    np.testing.assert_allclose(som.codebook_, largest / 8, rtol=1e-12)


def test_samples_beyond_their_weights():
    far = RNG.uniform(1e308, 1.7e308, (300, 3))
    with pytest.raises(ValueError, match="scale X"):
        SOFM(5, n_epochs=3, init="sample").fit(far, sample_weight=np.full(300, 1e-6))


@pytest.mark.parametrize("scale", [(1e-18, 1e-305), (1.0, 5e-324)])
def test_weights_that_lose_digits_are_refused(scale):
    with pytest.raises(ValueError, match="loses digits"):
        SOFM(5, n_epochs=3).fit(X * scale[0], sample_weight=np.full(60, scale[1]))


def test_weights_with_an_infinite_sum_are_refused():
    som = SOFM(5, n_epochs=3).fit(X)
    with pytest.raises(ValueError, match="whose sum is finite"):
        som.score(X, sample_weight=np.full(60, 1e308))


def test_samples_of_a_type_too_small_for_the_map():
    som = SOFM(5).fit(X * 1e100)
    for call in (som.predict, som.transform, som.score, som.partial_fit):
        with pytest.raises(ValueError, match=r"expected samples of float64.*got float32"):
            call(X.astype("f4"))


def test_zeros_of_both_signs_are_one_zero_in_every_form():
    Z = np.array([[0.0, 1], [-0.0, 2]])
    how = {"shape": 4, "init": "random", "random_state": 0, "n_epochs": 1, "sigma": 1e-3}
    array, blocks = (SOFM(**how).fit(data).codebook_ for data in (Z, [Z[:1], Z[1:]]))
    assert array.tobytes() == blocks.tobytes()


@pytest.mark.parametrize("sigma", [np.inf, (np.inf, 1.0)])
def test_an_infinite_radius_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma: expected finite"):
        SOFM(3, sigma=sigma).fit(X)


def test_what_the_online_rule_learned_counts_as_its_weights():
    Z, weights = np.r_[X, np.full((500, 3), 0.9)], np.r_[np.ones(60), np.zeros(500)]
    how = {"shape": 4, "n_epochs": 4, "algorithm": "online", "random_state": 0}
    maps = [SOFM(**how).fit(X), SOFM(**how).fit(Z, sample_weight=weights)]
    for som in maps:
        som.set_params(algorithm="batch").partial_fit(X[:20])
    np.testing.assert_array_equal(maps[0].codebook_, maps[1].codebook_)


@pytest.mark.parametrize("size", [1e-170, 1e160])
def test_targets_of_any_size(size):
    y = X[:, 0]
    expected = SOMRegressor(SOFM(6)).fit(X, y).predict(X)
    np.testing.assert_allclose(SOMRegressor(SOFM(6)).fit(X, y * size).predict(X) / size, expected)


def test_every_kind_of_sparse_matrix():
    expected = SOFM(3, n_epochs=2).fit(sparse.csr_matrix(X)).codebook_
    for kind in (sparse.dok_matrix, sparse.lil_matrix, sparse.coo_array, sparse.csc_array):
        np.testing.assert_array_equal(SOFM(3, n_epochs=2).fit(kind(X)).codebook_, expected)


def test_a_copy_keeps_its_history():
    som = SOFM(3, n_epochs=2).fit(X)
    kept = SOFM(3).set_params(**som.get_params())
    kept.__dict__.update(vars(som))
    som.partial_fit(X)
    assert len(kept.history_) == 2 == len(som.history_) - 1
