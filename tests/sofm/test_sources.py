"""The same map from every form of the same samples; sparse and missing values."""

import tracemalloc

import naive
import numpy as np
import pytest
from rejuvenet.sofm import SOFM, opening, samples
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics.pairwise import nan_euclidean_distances

PARAMETERS = dict(shape=(6, 6), n_epochs=5)


@pytest.fixture(scope="module")
def local(digits):
    return SOFM(**PARAMETERS).fit(digits[0])


def same(a, b):
    assert a.codebook_.tobytes() == b.codebook_.tobytes()
    np.testing.assert_array_equal(a.labels_, b.labels_)
    assert a.history_ == b.history_
    assert a.quantization_error_ == b.quantization_error_


def test_memory_map(digits, local, tmp_path):
    np.save(tmp_path / "x.npy", digits[0])
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    same(SOFM(**PARAMETERS).fit(mapped), local)


@pytest.mark.parametrize("size", [1, 100, 700, 5000])
def test_blocks(digits, local, size):
    X = digits[0]
    if size == 1:
        X = X[:60]
        local = SOFM(**PARAMETERS).fit(X)
    blocks = [X[i : i + size] for i in range(0, len(X), size)]
    from_list = SOFM(**PARAMETERS).fit(blocks)
    same(from_list, local)
    same(SOFM(**PARAMETERS).fit(lambda: iter(blocks)), local)
    np.testing.assert_array_equal(from_list.predict(blocks), local.labels_)
    np.testing.assert_allclose(from_list.transform(blocks), local.transform(X), rtol=1e-4)


def test_blocks_that_cannot_be_used(digits):
    X = digits[0]
    with pytest.raises(ValueError, match="again"):
        SOFM().fit(b for b in [X])
    with pytest.raises(ValueError, match="all alike"):
        SOFM().fit([X, X[:, :3]])
    with pytest.raises(ValueError, match="at least one feature"):
        SOFM().fit([X[:, :0]])
    with pytest.raises(ValueError, match="at least one"):
        SOFM().fit(lambda: iter([]))
    with pytest.raises(ValueError, match="shape"):
        SOFM().fit(lambda: iter([X[0]]))
    with pytest.raises(ValueError, match="shape"):
        SOFM(metric="cosine").fit(lambda: iter([X[0]]))
    with pytest.raises(ValueError, match="one weight"):
        SOFM().fit([X], sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="64 features"):
        SOFM(n_epochs=1).fit(X).predict([X[:, :5]])


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("algorithm", ["batch", "online"])
@pytest.mark.parametrize("change", ["fewer", "none", "more", "narrow", "wide", "type"])
@pytest.mark.parametrize("later", [2, 3, 5])
def test_blocks_that_change_from_pass_to_pass(digits, metric, algorithm, change, later):
    X = digits[0][:300]
    other = {
        "fewer": [X[:100], X[100:250]],
        "none": [],
        "more": [X[:100], X[100:], X[:1]],
        "narrow": [X[:, :60]],
        "wide": [X[:100], np.tile(X[100:], (1, 2))],
        "type": [X.astype("f8")],
    }[change]
    passes = []

    def blocks():
        passes.append(None)
        return iter(other if len(passes) >= later else [X[:100], X[100:]])

    som = SOFM(4, n_epochs=3, metric=metric, algorithm=algorithm, init="sample")
    with pytest.raises(ValueError, match="the same 300 rows of 64 features of float32") as caught:
        som.fit(blocks)
    assert "\n" not in str(caught.value)


def test_weights_of_blocks(digits):
    X = digits[0]
    weights = np.random.default_rng(0).random(len(X))
    whole = SOFM(**PARAMETERS).fit(X, sample_weight=weights)
    same(SOFM(**PARAMETERS).fit([X[:1000], X[1000:]], sample_weight=weights), whole)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_csr_equals_dense(digits, dtype, kind):
    X = digits[0].astype(dtype)
    start = X[:: len(X) // 36][:36]
    dense = SOFM((6, 6), n_epochs=4, init=start).fit(X)
    rows = SOFM((6, 6), n_epochs=4, init=start).fit(kind(X))
    np.testing.assert_allclose(rows.codebook_, dense.codebook_, atol=1e-4)
    assert (rows.labels_ == dense.labels_).mean() > 0.999
    assert naive.is_winner(X, rows.codebook_, rows.labels_) or dtype == "f4"
    np.testing.assert_array_equal(rows.predict(kind(X)), rows.labels_)
    assert rows.quantization_error_ == pytest.approx(dense.quantization_error_, rel=1e-5)
    one, two = (SOFM(5, n_epochs=3, n_jobs=n).fit(kind(X)) for n in (1, 3))
    assert one.codebook_.tobytes() == two.codebook_.tobytes()


def test_csr_entries_that_occur_twice_are_added(digits):
    whole = sparse.csr_matrix(digits[0])
    halves = sparse.csr_matrix(
        (np.repeat(whole.data / 2, 2), np.repeat(whole.indices, 2), 2 * whole.indptr), whole.shape
    )
    som = SOFM(**PARAMETERS).fit(halves)
    same(som, SOFM(**PARAMETERS).fit(whole))
    assert halves.nnz == 2 * whole.nnz  # the user's matrix is as it was


def test_cosine_of_csr_entries_that_occur_twice_or_are_zero(digits):
    whole = sparse.csr_matrix(digits[0])
    halves = sparse.csr_matrix(
        (np.repeat(whole.data / 2, 2), np.repeat(whole.indices, 2), 2 * whole.indptr), whole.shape
    )
    options = dict(shape=5, metric="cosine", n_epochs=3)
    same(SOFM(**options).fit(halves), SOFM(**options).fit(whole))
    whole.data[whole.indptr[41] : whole.indptr[42]] = 0
    with pytest.raises(ValueError, match="row 41 of X is all zeros"):
        SOFM(**options).fit(whole)
    whole.data[whole.indptr[41]] = np.inf
    with pytest.raises(ValueError, match="row 41"):
        SOFM(**options).fit(whole)


@pytest.mark.parametrize(
    ("dtype", "size"), [("f8", 1e-170), ("f8", 1e170), ("f8", 1e-300), ("f8", 1e307),
     ("f4", 1e-25), ("f4", 1e25), ("f4", 1e37)]
)  # fmt: skip
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, lambda X: [X[:200], X[200:]]])
def test_cosine_of_any_size(digits, dtype, size, form):
    X = digits[0][:300].astype("f8") + 0.1
    options = dict(shape=5, metric="cosine", n_epochs=3)
    som = SOFM(**options).fit(X)
    sized = SOFM(**options).fit(form((X * size).astype(dtype)))
    atol = 1e-12 if dtype == "f8" else 1e-5
    np.testing.assert_allclose(sized.codebook_, som.codebook_, atol=atol)
    expected = som.transform(X)
    np.testing.assert_allclose(
        sized.transform(form((X * size).astype(dtype))), expected, atol=1e-7 + atol
    )


def test_wide_sparse_rows_are_never_made_dense():
    rng = np.random.default_rng(0)
    places = rng.integers(12_000, size=24_000), rng.integers(5000, size=24_000)
    X = sparse.csr_matrix((rng.random(24_000, "f4"), places), shape=(12_000, 5000))
    tracemalloc.start()
    som = SOFM(4, n_epochs=2).fit(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # 240 MB if it were dense
    assert som.codebook_.shape == (4, 5000)


def test_missing_values(digits):
    X = digits[0][:300].copy()
    rng = np.random.default_rng(0)
    X[rng.random(X.shape) < 0.3] = np.nan
    som = SOFM((4, 4), missing="ignore").fit(X)
    np.testing.assert_array_equal(som.labels_, naive.missing_winners(X, som.codebook_))
    distances = nan_euclidean_distances(X, som.codebook_)
    np.testing.assert_allclose(som.transform(X), distances, rtol=1e-5)
    assert som.quantization_error_ == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)
    full = SOFM((4, 4)).fit(digits[0][:300])
    assert -full.score(digits[0][:300]) > 0
    filled = som.codebook_[som.labels_]
    absent = np.isnan(X)
    guess = np.abs(filled - digits[0][:300])[absent].mean()
    mean = np.abs(np.nanmean(X, axis=0) - digits[0][:300])[absent].mean()
    assert guess < 0.85 * mean, "the map fills in better than the mean"
    whole = digits[0][:300]
    a = SOFM(6, missing="ignore", init=whole[:6], n_epochs=4).fit(whole)
    b = SOFM(6, init=whole[:6], n_epochs=4).fit(whole)
    np.testing.assert_allclose(a.codebook_, b.codebook_, atol=1e-4)


def test_missing_values_that_cannot_be_ignored():
    X = np.ones((9, 3))
    X[4] = np.nan
    with pytest.raises(ValueError, match="row 4"):
        SOFM(missing="ignore").fit(X)
    X = np.ones((9, 3))
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match="column 1"):
        SOFM(missing="ignore").fit(X)
    X = np.ones((9, 3))
    X[2, 1] = np.inf
    with pytest.raises(ValueError, match="row 2"):
        SOFM(missing="ignore").fit(X)


def test_cosine_block_by_block(digits, monkeypatch):
    X = digits[0]
    at_once = SOFM(9, metric="cosine", n_epochs=3).fit(X)
    monkeypatch.setattr(samples, "COPY_BYTES", 50_000)
    same(SOFM(9, metric="cosine", n_epochs=3).fit(X), at_once)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_what_would_have_to_be_copied_is_converted_by_block(metric, monkeypatch):
    X = np.random.default_rng(0).integers(1, 255, (500, 30)).astype(np.uint8)
    at_once = SOFM(9, metric=metric, n_epochs=3).fit(X)
    monkeypatch.setattr(samples, "COPY_BYTES", 5000)
    same(SOFM(9, metric=metric, n_epochs=3).fit(X), at_once)
    columns = np.asfortranarray(X.astype("f8"))
    same(SOFM(9, metric=metric, n_epochs=3).fit(columns), at_once)


def test_online_rule_over_blocks_sparse_rows_and_dask(digits):
    array = pytest.importorskip("dask.array")
    X = digits[0][:600]
    som = SOFM(6, algorithm="online", n_epochs=2, random_state=0)
    blocks = clone(som).fit([X[:200], X[200:400], X[400:]])
    same(clone(som).fit(array.from_array(X, chunks=(200, 64))), blocks)
    whole = clone(som).fit(X)
    rows = clone(som).fit(sparse.csr_matrix(X))
    assert rows.codebook_.tobytes() == whole.codebook_.tobytes()
    assert whole.quantization_error_ == pytest.approx(blocks.quantization_error_, rel=0.1)


def test_cosine_over_dask(digits):
    array = pytest.importorskip("dask.array")
    options = dict(shape=9, metric="cosine", n_epochs=3)
    X = digits[0]
    same(SOFM(**options).fit(array.from_array(X, chunks=(400, 64))), SOFM(**options).fit(X))
    zero = X.copy()
    zero[1234] = 0
    with pytest.raises(ValueError, match="row 1234"):
        SOFM(**options).fit(array.from_array(zero, chunks=(400, 64)))


def test_dask_array_equals_local(digits, local):
    array = pytest.importorskip("dask.array")
    X = array.from_array(digits[0], chunks=(400, 64))
    som = SOFM(**PARAMETERS).fit(X)
    same(som, local)
    labels = som.predict(X)
    assert isinstance(labels, array.Array)
    np.testing.assert_array_equal(labels.compute(), local.labels_)
    np.testing.assert_allclose(som.transform(X).compute(), local.transform(digits[0]), rtol=1e-4)
    bad = digits[0].copy()
    bad[777, 2] = np.nan
    with pytest.raises(ValueError, match="row 777"):
        SOFM().fit(array.from_array(bad, chunks=(400, 64)))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "f8"])
@pytest.mark.parametrize("chunks", [(500, 20), (1797, 64), ((0, 1000, 797), (64,))])
def test_lazy_labels_and_distances(digits, metric, dtype, chunks):
    array = pytest.importorskip("dask.array")
    X = digits[0].astype(dtype)
    lazy = array.from_array(X, chunks=chunks)
    som = SOFM((3, 3), metric=metric, n_epochs=3).fit(lazy)
    same(som, SOFM((3, 3), metric=metric, n_epochs=3).fit(X))
    labels, table = som.predict(lazy), som.transform(lazy)
    expected = som.transform(X)
    assert (labels.dtype, labels.shape) == (np.int32, (1797,))
    assert (table.dtype, table.shape) == (expected.dtype, (1797, 9))
    som.fit(X[::-1] + 1)  # what is lazy remains of the map that it was asked of
    np.testing.assert_array_equal(labels.compute(), expected.argmin(axis=1))
    computed = table.compute()
    assert computed.dtype == expected.dtype
    np.testing.assert_allclose(computed, expected, rtol=1e-6)


def test_rows_of_unknown_number(digits):
    array = pytest.importorskip("dask.array")
    X = digits[0]
    lazy = array.from_array(X, chunks=(500, 64))
    lazy = lazy[lazy[:, 20] > 8]
    rows = X[X[:, 20] > 8]
    som = SOFM(3, n_epochs=2).fit(rows)
    np.testing.assert_array_equal(som.predict(lazy).compute(), som.labels_)
    np.testing.assert_allclose(som.transform(lazy).compute(), som.transform(rows), rtol=1e-6)
    same(SOFM(3, n_epochs=2).fit(lazy), som)


class DaskFrame:
    """What of a dask data frame is looked at."""

    def __dask_graph__(self):
        return {}


def test_dask_input_that_cannot_be_used(digits):
    array = pytest.importorskip("dask.array")
    X = array.from_array(digits[0], chunks=(500, 64))
    som = SOFM(3, n_epochs=1).fit(X)
    for ask in (som.fit, som.predict, som.transform, som.score):
        with pytest.raises(ValueError, match=r"\.to_dask_array\(lengths=True\)") as caught:
            ask(DaskFrame())
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="1 dimensions"):
            ask(X[0])
    for ask in (som.predict, som.transform, som.score):
        with pytest.raises(ValueError, match="5 features, but SOFM is expecting 64"):
            ask(X[:, :5])


@pytest.mark.timeout(150)
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_dask_cluster_loses_a_worker(digits, local, processes):
    distributed = pytest.importorskip("dask.distributed")
    import dask
    import dask.array

    X = dask.array.from_array(digits[0], chunks=(300, 64))
    lost = []

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 10}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def lose_one(som, record):
            if record["epoch"] != 1:
                return
            address, worker = next(iter(client.scheduler_info()["workers"])), None
            if processes:
                kill = __import__("os")._exit
                client.submit(kill, 1, workers=[address], allow_other_workers=False, retries=0)
            else:
                (worker,) = (w for w in cluster.workers.values() if w.address == address)
                cluster.sync(worker.close, executor_wait=False, nanny=False)
            lost.append(address)

        som = SOFM(callback=lose_one, **PARAMETERS).fit(X)
        if not processes:  # whose nanny starts another
            assert len(client.scheduler_info()["workers"]) == 1
    assert len(lost) == 1
    same(som, local)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("offset", [1e4, 1e9, 1e15])
def test_winners_of_sparse_rows_with_a_large_offset(offset, dtype):
    rng = np.random.default_rng(0)
    X = rng.random((500, 6)) * (rng.random((500, 6)) < 0.5)
    X[:, 2] = offset
    X = X.astype(dtype)
    dense = SOFM((3, 4), n_epochs=3, random_state=0).fit(X)
    rows = SOFM((3, 4), n_epochs=3, random_state=0).fit(sparse.csr_matrix(X))
    for som, form in ((dense, X), (rows, sparse.csr_matrix(X))):
        table = som.transform(form)
        np.testing.assert_array_equal(som.predict(form), table.argmin(axis=1))
        expected = naive.distances(X, som.codebook_)
        np.testing.assert_allclose(table, expected, rtol=1e-6 if dtype == "f4" else 1e-9)
        two = np.sort(expected, axis=1)[:, :2]
        nearest, error = som._nearest(opening.open_samples(som, form, reset=False), 2)
        np.testing.assert_array_equal(np.take_along_axis(expected, nearest, axis=1), two)
        assert error == pytest.approx(two[:, 0].sum(), rel=1e-9)
    np.testing.assert_allclose(rows.codebook_, dense.codebook_, rtol=1e-6)
