"""scikit-learn's checks of estimators, over the parameters; those that cannot pass are named."""

import pytest
from rejuvenet.sofm import SOFM, SOMClassifier, SOMRegressor
from scipy.spatial.distance import canberra
from sklearn.utils.estimator_checks import check_estimator

# Three blobs of 50 samples and 5 of noise are to have consecutive labels that match the blobs.  A
# node of a map may win nothing, and a map of many nodes divides the blobs.
NODES = {"check_clustering"}
# Two samples, or one of weight 2, come at different times.
ORDER = {
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
}
# Rows of zeros, which have no direction and are refused.
ZEROS = {
    "check_estimators_dtypes", "check_estimator_sparse_tag", "check_estimator_sparse_array",
    "check_estimator_sparse_matrix",
}  # fmt: skip
# Rows of equal numbers, which correlate with nothing and are refused.
CONSTANT = ZEROS | {
    "check_sample_weights_pandas_series", "check_sample_weights_not_an_array",
    "check_sample_weights_shape", "check_sample_weights_not_overwritten",
    "check_classifier_data_not_an_array", "check_regressor_data_not_an_array",
}  # fmt: skip
# Classes and numbers that depend on lengths, which the metric leaves out.
LENGTHS = {"check_classifiers_train", "check_regressors_train"}

SMALL = SOFM((3, 3), n_epochs=3)
MAPS = [
    (SOFM(), set()),
    (SOFM(neighborhood="exponential"), set()),
    (SOFM(metric="manhattan", n_epochs=3), set()),
    (SOFM(metric="chebyshev"), set()),
    (SOFM((3, 3)), NODES),
    (SOFM((4, 4), topology="hexagonal", periodic=True), NODES),
    (SOFM(missing="ignore"), set()),
    (SOFM(metric="correlation"), CONSTANT | NODES),
    (SOFM(algorithm="online", random_state=0), ORDER),
    (SOMClassifier(), set()),
    (SOMClassifier(SMALL, target_weight=0), set()),
    (SOMRegressor(SMALL), set()),
    (SOMClassifier(SOFM((4, 4), topology="hexagonal")), set()),
]
MORE = [
    *((SOFM(neighborhood=name), set()) for name in ("bubble", "epanechnikov", "cut_gaussian")),
    (SOFM(3, sigma=(None, 0.3), decay="linear"), set()),
    (SOFM(sigma=(4, 4), decay="asymptotic"), NODES),
    (SOFM(init="random", n_jobs=2, tol=1e-3), set()),
    (SOFM(init="sample"), ORDER | NODES),
    (SOFM(n_epochs=1, half_life=50.0), set()),
    (SOFM(periodic=True), NODES),
    (SOFM(4, topology="hexagonal"), NODES),
    (SOFM((2, 4), periodic=True), NODES),
    (SOFM((4, 4), topology="hexagonal"), NODES),
    (SOFM((8, 8), neighborhood="exponential"), NODES),
    (SOFM((3, 3), missing="ignore"), NODES),
    (SOFM((3, 3), algorithm="online", random_state=0), ORDER | NODES),
    (SOFM(algorithm="online", neighborhood="mexican_hat", random_state=0), ORDER | NODES),
    (SOFM(metric="cosine"), ZEROS | NODES),
    *((SOFM((3, 3), metric=metric), NODES) for metric in ("manhattan", "chebyshev")),
    (SOFM(metric=canberra, n_epochs=2), NODES),
    *(
        (kind(SOFM((8, 8), **options), target_weight=weight), failing)
        for kind in (SOMClassifier, SOMRegressor)
        for options, weight, failing in (
            ({"topology": "hexagonal"}, 0.5, set()),
            ({"periodic": True}, 0.9, set()),
            ({"missing": "ignore"}, 0.5, set()),
            ({"algorithm": "online", "random_state": 0}, 0.5, ORDER),
            ({"metric": "manhattan"}, 0.0, set()),
            ({"metric": "cosine"}, 0.0, ZEROS | LENGTHS),
            ({"metric": "correlation"}, 0.5, CONSTANT | LENGTHS),
        )
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "failing"),
    [*MAPS, *(pytest.param(*case, marks=pytest.mark.nightly) for case in MORE)],
    ids=lambda value: repr(value) if hasattr(value, "fit") else "",
)
def test_scikit_learn_contract(estimator, failing):
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = {result["check_name"] for result in results if result["status"] == "failed"}
    assert failed <= failing
