"""Means, sums and errors are right to the last digit of their own column, whatever the scales."""

import math

import naive
import numpy as np
import pytest
from rejuvenet.sofm import SOFM
from scipy import sparse

RNG = np.random.default_rng(0)
UNIFORM = RNG.random(1000)


def spread_over(exponents):
    return RNG.standard_normal(1000) * 10.0 ** RNG.integers(*exponents, 1000)


COLUMNS = {
    "milliseconds since 1970 beside [0, 1]": [np.full(1000, 1.7e12), UNIFORM],
    "seconds since 1970 beside [0, 1]": [1.7e9 + np.arange(1000), UNIFORM, 1e-9 * UNIFORM],
    "a constant that is no binary fraction": [np.full(1000, 0.1), np.full(1000, 1e-12)],
    "an outlier in the column": [np.r_[1e20, UNIFORM[1:]], UNIFORM],
    "one column of all sizes": [spread_over((-30, 30)), UNIFORM],
    "columns of all sizes": [UNIFORM * 10.0**e for e in range(-120, 150, 30)],
    "signs": [spread_over((-3, 4)), -UNIFORM, np.where(UNIFORM < 0.5, 0, -1e9)],
    "nothing but zeros, and nearly": [np.zeros(1000), np.r_[np.zeros(999), 1e-300], UNIFORM],
}
FORMS = {
    "dense": (np.asarray, {}),
    "blocks": (lambda X: [X[:1], X[1:900], X[900:]], {}),
    "csr": (sparse.csr_matrix, {}),
    "missing": (np.asarray, {"missing": "ignore"}),
}


def fitted(X, nodes=3, weights=None, **options):
    """A map whose nodes begin at samples, and are then the means of what they win."""
    W = X[:: len(X) // nodes][:nodes]
    return W, SOFM(nodes, init=W, n_epochs=1, sigma=1e-3, **options)


def means(X, labels, K, W, weights):
    """Means by correctly rounded sums."""
    found = np.array(W, np.float64)
    for k in range(K):
        mine = labels == k
        m = weights[mine]
        if m.sum() > 0:
            found[k] = [math.fsum(column * m) / math.fsum(m) for column in X[mine].T]
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", COLUMNS)
def test_means_of_columns_of_any_scale(name, weighted, form):
    X = np.stack(COLUMNS[name], axis=1)
    make, options = FORMS[form]
    weights = 10.0 ** RNG.integers(-9, 9, len(X)) * RNG.random(len(X)) if weighted else None
    W, som = fitted(X, **options)
    som.fit(make(X), sample_weight=weights)
    at_first = SOFM(3, n_epochs=1, **options).fit(make(X))
    at_first.codebook_ = W
    d, labels = naive.distances(X, W), at_first.predict(make(X))
    assert (d[np.arange(len(X)), labels] <= d.min(axis=1) * (1 + 1e-13)).all()
    m = np.ones(len(X)) if weights is None else weights
    np.testing.assert_allclose(som.codebook_, means(X, labels, 3, W, m), rtol=1e-15, atol=0)
    error = math.fsum(d.min(axis=1) * m) / math.fsum(m)
    assert som.history_[0]["quantization_error"] == pytest.approx(error, rel=1e-12)
    again = som.set_params(n_jobs=3).fit(make(X), sample_weight=weights)
    assert again.codebook_.tobytes() == som.codebook_.tobytes()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_any_way_of_cutting_rows_gives_the_same_bits(name, dtype):
    array = pytest.importorskip("dask.array")
    X = np.clip(np.stack(COLUMNS[name], axis=1), -1e30, 1e30).astype(dtype)
    X = np.tile(X, (12, 1))
    blocks, lazy = [X[:5], X[5:7000], X[7000:]], array.from_array(X, chunks=(3100, 2))
    ways = (X, 1), (X, 7), (blocks, 1), (blocks, 2), (lazy, 7)
    fits = [SOFM(20, n_epochs=3, n_jobs=n).fit(form) for form, n in ways]
    for som in fits[1:]:
        assert som.codebook_.tobytes() == fits[0].codebook_.tobytes()
        assert som.history_ == fits[0].history_
        assert som.quantization_error_ == fits[0].quantization_error_


def test_the_mean_of_a_small_column():
    X = np.c_[np.full(100_000, 1.7e12), np.random.default_rng(0).random(100_000)]
    expected = [1.7e12, math.fsum(X[:, 1]) / 100_000]
    for form, _ in FORMS.values():
        assert SOFM(1).fit(form(X)).codebook_[0].tolist() == expected


@pytest.mark.parametrize("init", ["pca", "sample", "random"])
@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.parametrize("form", ["dense", "blocks", "csr", "missing", "dask"])
def test_rows_of_weight_zero_take_part_in_nothing(form, algorithm, init, digits):
    array = pytest.importorskip("dask.array")
    make, options = FORMS.get(form) or (lambda X: array.from_array(X, chunks=(100, 64)), {})
    X = digits[0][:400].astype("f8")
    weights = RNG.random(400) * (RNG.random(400) < 0.7)
    X[weights == 0] *= 1e20
    keep = weights > 0
    options = dict(shape=9, n_epochs=2, random_state=0, algorithm=algorithm, init=init, **options)
    with_them = SOFM(**options).fit(make(X), sample_weight=weights)
    without = SOFM(**options).fit(
        make(X[keep]) if form != "blocks" else [X[:1][keep[:1]], X[1:900][keep[1:900]]],
        sample_weight=weights[keep],
    )
    if form == "dask" and algorithm == "online":  # which goes through the blocks one by one
        return
    assert with_them.codebook_.tobytes() == without.codebook_.tobytes()
    assert with_them.history_ == without.history_
    assert with_them.quantization_error_ == without.quantization_error_
    assert with_them.topographic_error_ == without.topographic_error_
    np.testing.assert_array_equal(with_them.labels_[keep], without.labels_)
    np.testing.assert_array_equal(with_them.labels_, np.asarray(with_them.predict(make(X))))


def test_rows_of_weight_zero_in_partial_fit(digits):
    X = digits[0][:300]
    weights = np.repeat([1.0, 0.0], 150)
    som = SOFM(5, n_epochs=2).partial_fit(X, sample_weight=weights)
    other = SOFM(5, n_epochs=2).partial_fit(X[:150], sample_weight=weights[:150])
    for _ in range(2):
        assert som.codebook_.tobytes() == other.codebook_.tobytes()
        som.partial_fit(X, sample_weight=weights)
        other.partial_fit(X[:150], sample_weight=weights[:150])


def test_scores_beside_a_large_node(digits):
    X = digits[0].astype("f8")
    som = SOFM(3, n_epochs=2).fit(X)
    expected = som.score(X)
    large = SOFM(4, n_epochs=1).fit(X)
    for size in (1e20, 1e150, 1e250):
        large.codebook_ = np.r_[som.codebook_, np.full((1, 64), size)]
        for form in (X, sparse.csr_matrix(X), [X[:700], X[700:]]):
            assert large.score(form) == pytest.approx(expected, rel=1e-12)
            table = large.transform(form)
            assert table.min(axis=1).mean() == pytest.approx(-expected, rel=1e-12)
            np.testing.assert_array_equal(large.predict(form), som.labels_)
    exact = SOFM(2, init=X[:2], n_epochs=1, sigma=1e-3).fit(X[:2])
    assert math.copysign(1, exact.score(X[:2])) == 1
