"""Missing values in every form, and what is put in their place."""

import naive
import numpy as np
import pytest
from rejuvenet import sofm
from rejuvenet.sofm import SOFM, SOMClassifier
from scipy import sparse

OPTIONS = dict(shape=(4, 4), n_epochs=5, missing="ignore")


@pytest.fixture(scope="module", params=["f4", "f8"])
def holes(request, digits):
    X = digits[0][:400].astype(request.param)
    X[np.random.default_rng(0).random(X.shape) < 0.3] = np.nan
    return X


def csr(X):
    """Zeros implicit, NaN stored."""
    return sparse.csr_matrix(X)


def test_every_form_learns_the_same(holes, monkeypatch):
    whole = SOFM(**OPTIONS).fit(holes)
    forms = {"list": [holes[:150], holes[150:]], "function": lambda: iter([holes])}
    for name, form in forms.items():
        assert SOFM(**OPTIONS).fit(form).codebook_.tobytes() == whole.codebook_.tobytes(), name
    monkeypatch.setattr(sofm.samples, "COPY_BYTES", 1000)  # columns first: converted by block
    assert SOFM(**OPTIONS).fit(np.asfortranarray(holes)).codebook_.tobytes() == (
        whole.codebook_.tobytes()
    )
    start = np.nan_to_num(holes[::25])
    dense, rows = (SOFM(**OPTIONS, init=start).fit(form) for form in (holes, csr(holes)))
    np.testing.assert_allclose(rows.codebook_, dense.codebook_, atol=1e-4)
    np.testing.assert_array_equal(rows.labels_, dense.labels_)
    assert rows.quantization_error_ == pytest.approx(dense.quantization_error_, rel=1e-6)
    assert SOFM(**OPTIONS).fit(csr(holes)).quantization_error_ < 1.1 * whole.quantization_error_


def test_sparse_rows_with_missing_values_beside_their_twin(holes):
    X = holes.astype("f8")
    m = np.random.default_rng(1).integers(0, 3, len(X)).astype("f8")
    som = SOFM(**OPTIONS).fit(csr(X), sample_weight=m)
    expected = naive.distances(X, som.codebook_)
    np.testing.assert_allclose(som.transform(csr(X)), expected, rtol=1e-9)
    np.testing.assert_array_equal(som.labels_, expected.argmin(axis=1))
    assert -som.score(csr(X)) == pytest.approx(expected.min(axis=1).mean())
    # Eq. 8 feature by feature, over the samples that have it.
    before = SOFM(**OPTIONS).set_params(init=som.codebook_, n_epochs=1, sigma=0.8)
    after = before.fit(csr(X), sample_weight=m).codebook_
    H = naive.neighborhood_matrix("gaussian", 0.5, 4, 4)[:, som.labels_] * m
    there = ~np.isnan(X)
    np.testing.assert_allclose(after, H @ np.nan_to_num(X) / (H @ there), rtol=1e-9)


def test_a_feature_that_a_node_never_saw(digits):
    X = np.array([[0.0, 1.0], [0.1, np.nan], [9.0, np.nan], [9.1, np.nan]])
    for form in (X, csr(X)):
        som = SOFM(2, init=[[0.0, 2.0], [9.0, 5.0]], sigma=1e-3, n_epochs=2, missing="ignore")
        np.testing.assert_allclose(som.fit(form).codebook_, [[0.05, 1.0], [9.05, 5.0]])


def test_missing_values_become_those_of_the_node(holes):
    som = SOFM(**OPTIONS).fit(holes)
    nodes = naive.distances(holes, som.codebook_).argmin(axis=1)
    expected = np.where(np.isnan(holes), som.codebook_[nodes], holes)
    lost, before = np.isnan(holes).sum(), holes.copy()
    found = som.impute(holes)
    assert found.dtype == holes.dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(holes, before)
    pandas, array = pytest.importorskip("pandas"), pytest.importorskip("dask.array")
    np.testing.assert_array_equal(som.impute(pandas.DataFrame(holes)), expected)
    np.testing.assert_array_equal(
        som.impute(array.from_array(holes, chunks=(150, 30))).compute(), expected
    )
    blocks = som.impute([holes[:150], holes[150:]])
    assert [len(block) for block in blocks] == [150, 250]
    np.testing.assert_array_equal(
        np.concatenate(list(som.impute(lambda: iter([holes[:150], holes[150:]])))), expected
    )
    sparse_rows = som.impute(csr(holes))
    assert sparse_rows.nnz == csr(holes).nnz >= lost
    np.testing.assert_array_equal(sparse_rows.toarray(), expected)


def test_it_is_better_than_means(digits):
    X = digits[0][:900].astype("f8")
    holes = X.copy()
    holes[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    lost = np.isnan(holes)
    complete = SOFM((9, 9)).fit(X)  # a map of complete samples serves as well
    for som in (SOFM((9, 9), missing="ignore").fit(holes), complete):
        error = np.sqrt(((som.impute(holes) - X)[lost] ** 2).mean())
        means = np.sqrt(((np.nanmean(holes, axis=0) - X)[lost] ** 2).mean())
        assert error < 0.75 * means
    np.testing.assert_array_equal(complete.impute(X), X)


def test_classes_of_samples_with_missing_values(holes, digits):
    y = digits[1][:400]
    model = SOMClassifier(SOFM((8, 8), missing="ignore"))
    for form in (holes, csr(holes), [holes[:150], holes[150:]]):
        assert model.fit(form, y).score(holes, y) > 0.8


WRONG = [
    (lambda som, X: som.impute(X), "row 3 of X"),
    (lambda som, X: som.impute(csr(X)), "only NaN in row 3 of X"),
    (lambda som, X: SOFM(**OPTIONS).fit(csr(X)), "only NaN in row 3 of X"),
    (lambda som, X: SOFM(**OPTIONS).fit(csr(X.T[:, 1:4])), "only NaN in column 2 of X"),
    (lambda som, X: SOFM(**OPTIONS).fit([X.T[:, 1:4]]), "only NaN in column 2 of X"),
    (lambda som, X: SOFM(4, metric="cosine").fit(X[1:3]).impute(X), "metric: expected 'euclidean'"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_cannot_be_filled(call, message):
    X = np.random.default_rng(0).random((6, 4))
    som = SOFM(**OPTIONS).fit(X)
    X[3] = np.nan
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match=message) as caught:
        call(som, X)
    assert "\n" not in str(caught.value)
