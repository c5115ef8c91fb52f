"""Maps as ONNX files, run in onnxruntime beside the estimators."""

import numpy as np
import pytest

ort = pytest.importorskip("onnxruntime")

from rejuvenet.adapters.onnx import register_onnx_converters, to_onnx  # noqa: E402
from rejuvenet.sofm import SOFM, SOMClassifier, SOMRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402


def run(proto, X):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X}), strict=True))


METRICS = ["euclidean", "cosine", "correlation", "manhattan", "chebyshev"]


@pytest.mark.parametrize(("dtype", "atol"), [("f4", 3e-5), ("f8", 1e-12)])
@pytest.mark.parametrize("opset", [13, 18, 21])
@pytest.mark.parametrize("metric", METRICS)
def test_nodes_and_distances(metric, opset, dtype, atol, digits):
    offset = 0 if metric == "cosine" else 1000
    X = digits[0][:300].astype(dtype) + offset
    som = SOFM((4, 5), metric=metric, n_epochs=3).fit(X)
    found = run(to_onnx(som, dtype=dtype, opset=opset), X)
    assert list(found) == ["label", "distances"]
    np.testing.assert_array_equal(found["label"], som.labels_)
    assert found["distances"].dtype == X.dtype
    np.testing.assert_allclose(found["distances"], som.transform(X), atol=atol)


def test_samples_on_their_nodes(digits):
    """Where a product would leave no digits of the distance."""
    X = digits[0][:20] + 1000
    som = SOFM((4, 5), n_epochs=1).fit(X)
    som.codebook_ = X
    found = run(to_onnx(som), X)
    np.testing.assert_array_equal(found["label"], np.arange(20))
    assert np.diag(found["distances"]).tolist() == [0.0] * 20
    np.testing.assert_allclose(found["distances"], som.transform(X), rtol=1e-6)


def test_places_on_the_globe():
    X = np.random.default_rng(0).uniform(-1.5, 1.5, (200, 2)).astype("f4")
    som = SOFM((3, 3), metric="haversine", n_epochs=3).fit(X)
    found = run(to_onnx(som), X)
    np.testing.assert_array_equal(found["label"], som.labels_)
    np.testing.assert_allclose(found["distances"], som.transform(X), atol=1e-5)


def test_missing_values(digits):
    X = digits[0][:300].copy()
    X[np.random.default_rng(0).random(X.shape) < 0.3] = np.nan
    som = SOFM((4, 4), missing="ignore", n_epochs=3).fit(X)
    found = run(to_onnx(som), X)
    np.testing.assert_array_equal(found["label"], som.labels_)
    np.testing.assert_allclose(found["distances"], som.transform(X), rtol=1e-5)


def test_maps_that_predict(digits):
    X, y = digits[0][:400], digits[1][:400]
    for labels in (y, y.astype(str), y / 4):
        model = SOMClassifier(SOFM((6, 6))).fit(X, labels > 1 if labels.dtype == float else labels)
        found = run(to_onnx(model), X)
        np.testing.assert_array_equal(found["label"], model.predict(X))
        np.testing.assert_allclose(found["probabilities"], model.predict_proba(X), atol=1e-6)
    for Y in (y.astype(float), np.column_stack([y, X[:, 20]])):
        model = SOMRegressor(SOFM((6, 6))).fit(X, Y)
        values = model.predict(X).reshape(400, -1)
        np.testing.assert_allclose(run(to_onnx(model), X)["variable"], values, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("last", [SOFM((4, 4)), SOMClassifier(), SOMRegressor()])
def test_pipelines(last, dtype, digits):
    skl2onnx = pytest.importorskip("skl2onnx")
    X, y = digits[0][:400].astype(dtype), digits[1][:400]
    pipe = make_pipeline(StandardScaler(), last).fit(X, y)
    found = list(run(to_onnx(pipe, dtype=dtype), X).values())
    np.testing.assert_allclose(found[0].reshape(400), pipe.predict(X), rtol=1e-5)
    if not isinstance(last, SOMRegressor):
        scores = pipe.predict_proba(X) if isinstance(last, SOMClassifier) else pipe.transform(X)
        np.testing.assert_allclose(found[1], scores, atol=1e-5)
    if dtype == "f4":  # skl2onnx's dictionaries of probabilities are of float32
        register_onnx_converters()
        direct = list(run(skl2onnx.to_onnx(pipe, X[:1]), X).values())
        np.testing.assert_array_equal(direct[0], found[0])
        assert not isinstance(last, SOMClassifier) or direct[1][0].keys() == set(range(10))


WRONG = [
    (lambda som: to_onnx(3), "model: expected a SOFM, SOMClassifier, SOMRegressor or Pipeline"),
    (lambda som: to_onnx(som, dtype="i4"), "dtype: expected numpy.float32 or numpy.float64"),
    (
        lambda som: to_onnx(som.set_params(metric=lambda a, b: abs(a - b).sum()).fit(np.eye(3))),
        "metric: expected one with a name",
    ),
    (
        lambda som: to_onnx(som.set_params(metric="haversine").fit(np.eye(2)), dtype="f8"),
        "dtype: expected numpy.float32 with metric='haversine'",
    ),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_has_no_file(call, message):
    with pytest.raises(ValueError, match=message):
        call(SOFM(2, n_epochs=1).fit(np.eye(3)))
