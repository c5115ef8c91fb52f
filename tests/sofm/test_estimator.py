"""The estimator: errors, parameters, storage; its contract is in `test_contract.py`."""

import pickle

import naive
import numpy as np
import pytest
from rejuvenet.sofm import SOFM
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def test_digits(digits):
    X, _ = digits
    som = SOFM((10, 10), random_state=0).fit(X)
    assert som.codebook_.dtype == np.float32
    assert naive.is_winner(X, som.codebook_, som.labels_)
    np.testing.assert_array_equal(som.predict(X), som.labels_)
    assert som.quantization_error_ < 19.5
    assert som.topographic_error_ < 0.1
    assert som.score(X) == pytest.approx(-som.quantization_error_)
    distances = som.transform(X[:50])
    np.testing.assert_allclose(
        distances, np.sqrt(naive.squared_distances(X[:50], som.codebook_)), rtol=1e-3
    )
    assert len(som.history_) == som.n_iter_ == 20
    errors = [r["quantization_error"] for r in som.history_]
    assert errors[-1] < errors[0]


def test_pipeline_grid_search_clone_pickle_pandas(digits):
    pandas = pytest.importorskip("pandas")
    X, _ = digits
    X = X[:200]
    pipe = make_pipeline(StandardScaler(), SOFM(shape=4, n_epochs=3))
    search = GridSearchCV(pipe, {"sofm__shape": [2, 9]}, cv=2).fit(X)
    assert search.best_params_ == {"sofm__shape": 9}
    som = SOFM(shape=(2, 2), sigma=(3, 0.5), n_epochs=2)
    assert clone(som).get_params() == som.get_params()
    frame = pandas.DataFrame(X, columns=[f"p{i}" for i in range(64)])
    som.set_output(transform="pandas").fit(frame)
    table = som.transform(frame)
    assert list(table.columns) == ["sofm0", "sofm1", "sofm2", "sofm3"]
    assert list(som.feature_names_in_[:2]) == ["p0", "p1"]
    again = pickle.loads(pickle.dumps(som))
    np.testing.assert_array_equal(again.predict(frame), som.labels_)


@pytest.mark.parametrize("init", ["pca", "sample", "random"])
def test_a_seed_gives_the_same_bits_with_any_number_of_threads(init, digits):
    X = np.tile(digits[0], (4, 1))
    fits = [
        SOFM((8, 8), init=init, random_state=3, n_jobs=n, n_epochs=6).fit(X) for n in (1, 2, 5)
    ]
    for other in fits[1:]:
        assert other.codebook_.tobytes() == fits[0].codebook_.tobytes()
        assert other.history_ == fits[0].history_
    other = SOFM((8, 8), init=init, random_state=4, n_epochs=6).fit(X)
    assert (other.codebook_.tobytes() == fits[0].codebook_.tobytes()) == (init == "pca")


def test_pruned_fit_is_exact():
    rng = np.random.default_rng(0)
    X = (rng.standard_normal((30_000, 64)) * np.geomspace(1, 0.02, 64)).astype("f4")
    seen = []
    som = SOFM(300, n_epochs=3, callback=lambda s, r: seen.append(r["epoch"])).fit(X)
    assert seen == [0, 1, 2]
    rows = slice(0, 2000)
    assert naive.is_winner(X[rows], som.codebook_, som.labels_[rows])


BAD = [
    ({"shape": 0}, "shape"),
    ({"shape": (2, 2, 2)}, "shape"),
    ({"shape": "big"}, "shape"),
    ({"topology": "hex"}, "topology"),
    ({"topology": "hexagonal", "periodic": True, "shape": (3, 4)}, "even number of rows"),
    ({"neighborhood": "round"}, "neighborhood"),
    ({"neighborhood": "mexican_hat"}, "algorithm='online'"),
    ({"sigma": -1}, "sigma"),
    ({"sigma": (0.5, 2)}, "sigma"),
    ({"sigma": "wide"}, "sigma"),
    ({"learning_rate": 2.0}, "learning_rate"),
    ({"learning_rate": 0.3}, "learning_rate: expected None with algorithm='batch'"),
    ({"half_life": 9.0, "algorithm": "online"}, "half_life: expected None where"),
    ({"half_life": 9.0, "metric": "chebyshev"}, "half_life: expected None where"),
    ({"decay": "fast"}, "decay"),
    ({"init": "zero"}, "init"),
    ({"init": np.zeros((3, 3))}, "init"),
    ({"init": np.full((8, 4), np.nan)}, "init"),
    ({"init": None}, "init: expected 'pca'.*got a NoneType"),
    ({"init": {"pca": 1}}, "init: expected 'pca'.*got a dict"),
    ({"init": ["pca", "random"]}, "init: expected 'pca'.*got a list"),
    ({"init": [[1.0], [2.0, 3.0]]}, "init: expected 'pca'.*got a list"),
    ({"init": np.zeros((8, 4), complex)}, "init: expected 'pca'.*got a ndarray"),
    ({"init": b"pca"}, "init: expected 'pca'.*got a bytes"),
    ({"n_epochs": 0}, "n_epochs"),
    ({"algorithm": "fast"}, "algorithm"),
    ({"metric": "minkowski"}, "metric: expected .* or a callable"),
    ({"metric": "chebyshev", "algorithm": "online"}, "no online rule"),
    ({"metric": "cosine", "missing": "ignore"}, "cosine"),
    ({"tol": -1}, "tol"),
    ({"n_jobs": 1.5}, "n_jobs"),
    ({"n_jobs": 0}, "n_jobs"),
    ({"periodic": "yes"}, "periodic"),
    ({"callback": 3}, "callback"),
    ({"missing": "drop"}, "missing"),
]


@pytest.mark.parametrize(("parameters", "word"), BAD, ids=[str(list(b[0])) + b[1] for b in BAD])
def test_bad_parameters_are_named(parameters, word):
    with pytest.raises(ValueError, match=word) as caught:
        SOFM(**parameters).fit(np.random.default_rng(0).random((20, 4)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_row_that_is_not_finite_is_named(value, dtype):
    X = np.ones((5000, 3), dtype)
    X[:, 0] = np.arange(5000)
    X[4321, 1] = value
    what = "NaN" if np.isnan(value) else rf"infinity \({value}\)"
    said = f"got {what} in row 4321, column 1 of X"
    with pytest.raises(ValueError, match=said):
        SOFM().fit(X)
    with pytest.raises(ValueError, match=said):
        SOFM().fit(X[:4000]).predict(X)
    with pytest.raises(ValueError, match=said):
        SOFM().fit(sparse.csr_matrix(X))
    with pytest.raises(ValueError, match=said):
        SOFM().fit([X[:1000], X[1000:]])


def test_tol_and_callback_stop(digits):
    X, _ = digits
    still = SOFM(9, sigma=(0.5, 0.5), n_epochs=200, tol=1e-3).fit(X)
    assert 1 < still.n_iter_ < 200
    assert still.history_[-1]["movement"] < still.history_[0]["movement"]
    assert SOFM(9, callback=lambda som, record: record["epoch"] == 2).fit(X).n_iter_ == 3


def test_progress_shows_the_error(digits, capsys):
    SOFM(4, n_epochs=3, verbose=1).fit(digits[0])
    shown = capsys.readouterr().err
    assert "3/3" in shown
    assert "error" in shown


def test_cosine_ignores_lengths(digits):
    X, _ = digits
    rng = np.random.default_rng(0)
    longer = X * rng.uniform(0.5, 20, (len(X), 1)).astype("f4")
    a = SOFM((5, 5), metric="cosine").fit(X)
    b = SOFM((5, 5), metric="cosine").fit(longer)
    np.testing.assert_allclose(a.codebook_, b.codebook_, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(a.codebook_, axis=1), 1, atol=1e-6)
    similar = X @ a.codebook_.T
    best = similar[np.arange(len(X)), a.labels_]
    assert (best >= similar.max(axis=1) * (1 - 1e-5)).all()
    X = X.copy()
    X[17] = 0
    with pytest.raises(ValueError, match="row 17"):
        SOFM(metric="cosine").fit(X)
    with pytest.raises(ValueError, match="row 17"):
        SOFM(metric="cosine").fit(sparse.csr_matrix(X))


def test_partial_fit_learns(digits):
    X, _ = digits
    som = SOFM((6, 6), n_epochs=10)
    for _ in range(3):
        for first in range(0, 1797, 300):
            som.partial_fit(X[first : first + 300])
    assert -som.score(X) < 1.1 * SOFM((6, 6)).fit(X).quantization_error_
    assert np.isfinite(som.codebook_).all()
    settled = SOFM(5, n_epochs=4).fit(X)
    before = settled.codebook_.copy()
    settled.partial_fit(X[:100])
    assert (settled.codebook_ != before).any()
    # A map that is fitted anew has forgotten the batches of the one before.
    again = SOFM(5, n_epochs=4).partial_fit(X + 100).fit(X).partial_fit(X[:100])
    np.testing.assert_array_equal(again.codebook_, settled.codebook_)
    with pytest.raises(AttributeError, match="partial_fit"):
        SOFM(algorithm="online").partial_fit(X)
    for change in ({"shape": 6}, {"shape": (2, 2)}, {"topology": "hexagonal"}, {"periodic": True}):
        som = SOFM((1, 4), n_epochs=2).partial_fit(X)
        before = som.codebook_
        with pytest.raises(ValueError, match="keep the shape"):
            som.set_params(**change).partial_fit(X)
        assert som.codebook_ is before
    SOFM((1, 4)).partial_fit(X).set_params(shape=4).partial_fit(X)  # the same map
