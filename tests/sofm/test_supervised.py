"""Maps that predict, beside naive twins and in scikit-learn's hands."""


import naive
import numpy as np
import pytest
from rejuvenet.sofm import SOFM, SOMClassifier, SOMRegressor, suggest_shape
from scipy import sparse
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV

SMALL = SOFM((3, 3), n_epochs=3)


def naive_means(som, labels, Y, sigma):
    grid = som.grid_
    H = naive.neighborhood_matrix("gaussian", sigma, grid.rows, grid.columns)
    return np.array([h[labels] @ Y / h[labels].sum() for h in H])


def test_probabilities_are_smoothed_counts(digits):
    X, y = digits[0][:600], digits[1][:600]
    model = SOMClassifier(SOFM((12, 12)), sigma=0.7, target_weight=0).fit(X, y)
    som = SOFM((12, 12)).fit(X)
    np.testing.assert_array_equal(model.som_.labels_, som.labels_)
    expected = naive_means(som, som.labels_, np.eye(10)[y], 0.7)
    np.testing.assert_allclose(model.node_probabilities_, expected, rtol=1e-9, atol=1e-12)
    assert (model.class_counts_.sum(axis=1) == 0).any(), "nodes that won nothing answer too"
    proba = model.predict_proba(digits[0][600:])
    np.testing.assert_allclose(proba, expected[som.predict(digits[0][600:])], atol=1e-9)
    np.testing.assert_array_equal(model.predict(digits[0][600:]), proba.argmax(axis=1))


def test_classes_inside_the_map_make_better_answers(digits):
    X, y = digits
    scores = [
        SOMClassifier(SOFM((12, 12)), target_weight=share).fit(X[:1000], y[:1000])
        .score(X[1000:], y[1000:]) for share in (0, 0.5)
    ]  # fmt: skip
    assert 0.88 < scores[0] < scores[1] - 0.01


def test_a_map_with_targets_is_one_of_features(digits):
    """Targets are columns of a variance in proportion to that of the features."""
    X, y = digits[0][:300].astype("f8"), digits[1][:300].astype("f8")
    model = SOMRegressor(SOFM((4, 5)), target_weight=0.25).fit(X, y)
    spread = np.sqrt(X.var(axis=0).sum())
    column = (y - y.mean()) / y.std() * spread * np.sqrt(1 / 3)
    both = SOFM((4, 5)).fit(np.column_stack([X, column]))
    np.testing.assert_allclose(model.som_.codebook_, both.codebook_[:, :64], atol=1e-9)
    np.testing.assert_array_equal(model.som_.labels_, model.som_.predict(X))
    assert model.som_.quantization_error_ == pytest.approx(-model.som_.score(X))


def test_regression_of_several_outputs():
    X, y = load_diabetes(return_X_y=True)
    Y = np.column_stack([y, -2 * y, X[:, 0]])
    model = SOMRegressor(SOFM((4, 4)), sigma=0.8, target_weight=0).fit(X, Y)
    expected = naive_means(model.som_, model.som_.labels_, Y, 0.8)
    np.testing.assert_allclose(model.node_values_, expected, rtol=1e-9)
    assert model.predict(X[:7]).shape == (7, 3)
    alone = SOMRegressor(SOFM((4, 4)), sigma=0.8, target_weight=0).fit(X, y)
    np.testing.assert_allclose(alone.predict(X), model.predict(X)[:, 0])
    assert alone.score(X, y) > 0.35
    model = SOMRegressor(SOFM((4, 4)))  # with targets in the map, whatever their units
    answers = model.fit(X, Y).predict(X) * [9, 1, 0.1]
    np.testing.assert_allclose(model.fit(X, Y * [9, 1, 0.1]).predict(X), answers)


@pytest.mark.parametrize("target_weight", [0, 0.5])
def test_weights_and_forms(target_weight, digits):
    X, y = digits[0][:200].astype("f8"), digits[1][:200]
    m = np.random.default_rng(0).integers(0, 3, 200)
    model = SOMClassifier(SMALL, target_weight=target_weight)
    expected = model.fit(np.repeat(X, m, axis=0), np.repeat(y, m)).predict_proba(X)
    for form in (X, sparse.csr_matrix(X), [X[:150], X[150:]]):
        answers = model.fit(form, y, sample_weight=m).predict_proba(form)
        np.testing.assert_allclose(answers, expected, atol=1e-9)


@pytest.mark.parametrize("options", [dict(metric="cosine"), dict(init=np.eye(9, 64))])
def test_maps_of_other_kinds(options, digits):
    X, y = digits[0][:500], digits[1][:500]
    model = SOMClassifier(SOFM((3, 3), **options)).fit(X, y)
    assert model.score(X, y) > 0.6
    if "metric" in options:
        np.testing.assert_allclose(np.linalg.norm(model.som_.codebook_, axis=1), 1, atol=1e-6)


def test_search_over_the_map(digits):
    X, y = digits[0][:300], digits[1][:300]
    grid = {"som__shape": [2, (6, 6)], "sigma": [0.5]}
    search = GridSearchCV(SOMClassifier(SOFM(n_epochs=4)), grid, cv=2).fit(X, y)
    assert search.best_params_["som__shape"] == (6, 6)


WRONG = [
    (dict(som=3), None, "som: expected a SOFM or None, got 3"),
    (dict(sigma=0), None, "sigma: expected a number > 0"),
    (dict(target_weight=1), None, "target_weight: expected a number from 0 to less than 1"),
    ({}, [0, 1], "y: expected targets of 20 samples, got those of 2"),
    ({}, [np.nan] + [0.0, 1.0] * 9 + [0.0], "Input y contains NaN"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("options", "y", "message"), WRONG)
def test_wrong_arguments(options, y, message):
    X = np.random.default_rng(0).random((20, 3))
    y = np.arange(20) % 2 if y is None else y
    for model in (SOMClassifier(**options), SOMRegressor(**options)):
        with pytest.raises(ValueError, match=message):
            model.fit(X, y)
        assert not hasattr(model, "som_")


def test_suggested_shape():
    X = np.random.default_rng(0).standard_normal((400, 5)) * [1, 8, 0.1, 2, 0]
    rows, columns = suggest_shape(X)
    assert 80 < rows * columns < 120  # 5 sqrt(400) is 100
    assert columns / rows == pytest.approx(4, rel=0.25)
    assert suggest_shape([X[:100], X[100:]]) == suggest_shape(X + 1e6) == (rows, columns)
    assert suggest_shape(X[:100], np.full(100, 4.0)) == suggest_shape(np.repeat(X[:100], 4, axis=0))
    assert suggest_shape(X[:, :1]) == (1, 100)
    assert suggest_shape(np.ones((9, 2))) == (1, 15)
    X[0, 0] = np.nan
    assert suggest_shape(X, missing="ignore") == (rows, columns)
