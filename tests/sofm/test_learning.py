"""What is learned from call to call, and what stays when learning fails."""

import numpy as np
import pytest
from rejuvenet.sofm import SOFM
from scipy import sparse


@pytest.fixture(scope="module")
def X(digits):
    return digits[0]


def loaded(som, tmp_path):
    som.save(tmp_path / "map")
    return SOFM.load(tmp_path / "map")


@pytest.mark.parametrize("how", ["fit", "load", "online", "tol"])
def test_partial_fit_goes_on_from_a_fit(how, X, tmp_path):
    options = {"online": {"algorithm": "online"}, "tol": {"tol": 0.5}}.get(how, {})
    som = SOFM((6, 6), random_state=0, **options).fit(X)
    if how == "load":
        som = loaded(som, tmp_path)
    som.set_params(algorithm="batch")
    before, codebook, n = som.score(X), som.codebook_, som.n_iter_
    som.partial_fit(X[:1])
    assert som.score(X) > before - (1.5 if how == "online" else 0.5)
    assert som.n_iter_ == n + 1 == len(som.history_)
    assert som.history_[-1]["sigma"] == som.history_[-2]["sigma"]
    moved = np.linalg.norm(som.codebook_ - codebook, axis=1)
    assert 0 < moved.max() < 6
    for first in range(0, 1500, 100):
        som.partial_fit(X[first : first + 100])
    assert som.score(X) > before - (1.5 if how == "online" else 0.5)


def test_the_end_of_sigma_alone(X):
    history = SOFM((3, 8), n_epochs=3, sigma=(None, 0.2)).fit(X).history_
    assert (history[0]["sigma"], history[2]["sigma"]) == (4.0, 0.2)


def test_partial_fit_of_the_same_samples_stays_where_the_fit_was(X):
    som = SOFM(9, n_epochs=60, sigma=(3, 0.3)).fit(X)
    before = som.codebook_
    som.set_params(n_epochs=200).partial_fit(X)  # the end of the schedule is kept
    np.testing.assert_allclose(som.codebook_, before, atol=0.5)


def test_partial_fit_after_fit_in_every_form(X):
    for options, form in (({}, sparse.csr_matrix(X)), ({"missing": "ignore"}, X), ({}, [X, X[:9]])):
        som = SOFM(4, n_epochs=3, **options).fit(form)
        before = som.score(X)
        assert som.partial_fit(form).partial_fit(X[:5]).score(X) > before - 1


def test_half_life_forgets():
    rng = np.random.default_rng(0)
    old, new = rng.random((3000, 3)), rng.random((600, 3)) + 5
    codebooks = {}
    for half_life in (None, 1e9, 200.0):
        som = SOFM(4, n_epochs=5, half_life=half_life).fit(old)
        for first in range(0, 600, 20):
            som.partial_fit(new[first : first + 20])
        codebooks[half_life] = som
    assert codebooks[200.0].score(new) > codebooks[None].score(new) + 0.1
    np.testing.assert_allclose(codebooks[1e9].codebook_, codebooks[None].codebook_, rtol=1e-5)
    # One node is a running mean: half of the weight is of the last 200 samples.
    one = SOFM(1, n_epochs=1, half_life=200.0).fit(old)
    x0, weight = old.mean(axis=0), len(old)
    for first in range(0, 600, 20):
        one.partial_fit(new[first : first + 20])
        decay = 0.5 ** (20 / 200)
        x0 = (decay * weight * x0 + new[first : first + 20].sum(axis=0)) / (decay * weight + 20)
        weight = decay * weight + 20
    np.testing.assert_allclose(one.codebook_[0], x0)
    for wrong in (0, -1, "long"):
        with pytest.raises(ValueError, match="half_life: expected a number of samples > 0"):
            SOFM(half_life=wrong).fit(old)


def state(som):
    return {k: v.tobytes() if isinstance(v, np.ndarray) else repr(v) for k, v in vars(som).items()}


class Stop(KeyboardInterrupt):
    pass


def interrupts(som, record):
    if record["epoch"] == 2:
        raise Stop


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("algorithm", ["batch", "online"])
def test_a_fit_that_is_interrupted_changes_nothing(algorithm, fitted, X):
    som = SOFM(5, algorithm=algorithm, n_epochs=4)
    if fitted:
        som.fit(X[:100])
    som.set_params(callback=interrupts, shape=(3, 3))
    before = state(som)
    with pytest.raises(Stop):
        som.fit(X[:, :20])
    assert state(som) == before
    with pytest.raises(ValueError, match="row 7"):
        som.fit(np.where(np.arange(300)[:, None] == 7, np.nan, X[:300, :9]))
    assert state(som) == before


def test_partial_fit_that_fails_changes_nothing(X, monkeypatch):
    for som in (SOFM(5), SOFM(5, n_epochs=2).fit(X), SOFM(5).partial_fit(X)):
        before = state(som)
        bad = X.copy()
        bad[3, 3] = np.inf
        with pytest.raises(ValueError, match="row 3"):
            som.partial_fit(bad)
        assert state(som) == before

        def fails(self, samples):
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(SOFM, "_finish", fails)
            with pytest.raises(Stop):
                som.partial_fit(X)
        assert state(som) == before


def test_attributes_change_together(X):
    som = SOFM(4, n_epochs=3).fit(X[:200])
    seen = []

    def look(learner, record):
        seen.append((state(som), len(learner.history_)))

    som.set_params(callback=look)
    old = state(som)
    som.fit(X)
    assert [(s == old, n) for s, n in seen] == [(True, 1), (True, 2), (True, 3)]
    assert len(som.labels_) == len(X)


@pytest.mark.parametrize("dtype", ["f4", "i8", "f8"])
@pytest.mark.parametrize("form", ["array", "blocks"])
def test_masks_mean_missing(form, dtype, X):
    rng = np.random.default_rng(0)
    hidden = rng.random((300, 64)) < 0.3
    values = X[:300].astype(dtype)
    values[hidden] = 99
    masked = np.ma.array(values, mask=hidden)
    whole = np.ma.array(X[:300].astype(dtype))
    as_form = {"array": lambda m: m, "blocks": lambda m: [m[:100], m[100:]]}[form]
    with pytest.raises(ValueError, match="row 0"):
        SOFM(4).fit(as_form(masked))
    SOFM(4, n_epochs=1).fit(as_form(whole))
    if form == "array":
        nan = np.where(hidden, np.nan, X[:300].astype("f8"))
        nan = nan.astype("f4") if dtype == "f4" else nan
        a, b = (SOFM(4, n_epochs=3, missing="ignore").fit(m) for m in (masked, nan))
        assert a.codebook_.tobytes() == b.codebook_.tobytes()
        np.testing.assert_array_equal(a.predict(masked), b.labels_)
        np.testing.assert_array_equal(a.transform(masked), b.transform(nan))
    weights = np.ma.array(np.ones(300), mask=np.arange(300) == 5)
    with pytest.raises(ValueError, match=r"sample_weight|NaN"):
        SOFM(4).fit(X[:300], sample_weight=weights)
    with pytest.raises(ValueError, match="init: expected a finite codebook"):
        SOFM(4, init=masked[:4]).fit(X)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("form", ["dense", "blocks", "csr", "missing", "dask"])
def test_sampled_nodes_are_distinct(form, weighted):
    array = pytest.importorskip("dask.array")
    X = np.repeat([[0.0, 1.0]], 5000, axis=0)
    X[[17, 1800, 4999]] = [[1, 1], [2, 1], [3, 1]]
    X[10:20, 0] *= -1  # -0.0 is 0.0
    make = {
        "csr": sparse.csr_matrix, "blocks": lambda X: [X[:70], X[70:]],
        "dask": lambda X: array.from_array(X, chunks=(999, 2)),
    }.get(form, np.asarray)  # fmt: skip
    missing = "ignore" if form == "missing" else "error"
    weights = np.linspace(1, 2, 5000) if weighted else None
    for seed in range(3):
        for K in (2, 4, 6):
            som = SOFM(K, init="sample", n_epochs=1, sigma=1e-3, missing=missing, random_state=seed)
            som.fit(make(X), sample_weight=weights)
            assert len(np.unique(som.codebook_, axis=0)) == min(K, 4)


def test_sampled_nodes_are_drawn_in_proportion_to_weights():
    X, weights = np.arange(100.0)[:, None], np.where(np.arange(100) < 5, 1.0, 1e-6)
    som = SOFM(5, init="sample", n_epochs=1, sigma=1e-3, random_state=0)
    assert set(som.fit(X, sample_weight=weights).codebook_.ravel().round()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("init", ["pca", "sample", "random"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("end", ["largest", "smallest"])
@pytest.mark.filterwarnings("error")
def test_ends_of_the_range(end, dtype, init):
    limits = np.finfo(dtype)
    size = {"largest": float(limits.max), "smallest": float(limits.smallest_subnormal) * 8}[end]
    X = np.random.default_rng(0).uniform(-1, 1, (60, 4))
    X = np.round(X * 8) / 8 if end == "smallest" else X
    X = (X * size).astype(dtype)
    if end == "largest" and dtype == "f8":
        with pytest.raises(ValueError, match="scale X"):
            SOFM(4, init=init).fit(X)
        X /= 1024
    som = SOFM(4, init=init, n_epochs=3, random_state=0, tol=1e-9).fit(X)
    assert np.isfinite(som.codebook_).all()
    assert 0 < som.quantization_error_ < np.inf
    assert all(np.isfinite(record["movement"]) for record in som.history_)
    small = (X.astype("f8") / size, som.codebook_.astype("f8") / size)
    d = ((small[0][:, None] - small[1][None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(d[np.arange(60), som.labels_], d.min(axis=1), rtol=1e-9)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ({"a": [1.0, 2.0]}, "got a dict: pass its values"),
        ({1.0, 2.0}, "got a set: pass its values"),
        ("samples.npy", "got a str"),
        ([np.zeros((8, 8))] * 5, r"may be images: pass np.reshape\(X, \(len\(X\), -1\)\)"),
    ],
)
def test_what_is_no_table(X, message):
    for ask in (SOFM().fit, SOFM().partial_fit, SOFM(2).fit([[0.0], [1.0]]).predict):
        with pytest.raises(ValueError, match=message):
            ask(X)


@pytest.mark.parametrize("shape", [True, (True, 2), (2, False), np.True_])
def test_a_shape_is_no_flag(shape):
    with pytest.raises(ValueError, match="shape: expected a positive number of nodes"):
        SOFM(shape).fit([[0.0], [1.0]])
    with pytest.raises(ValueError, match="n_epochs"):
        SOFM(2, n_epochs=True).fit([[0.0], [1.0]])
