"""Threads: as many as joblib says, none left over, none working on, the same bits."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import joblib
import numpy as np
import pytest
from rejuvenet.sofm import SOFM, threads
from rejuvenet.sofm.samples import InMemory
from rejuvenet.sofm.threads import Threads, n_threads, threads_for


@pytest.fixture
def all_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def counts(monkeypatch):
    """How many threads every fit uses."""
    seen = []

    class Counted(ThreadPoolExecutor):
        def __init__(self, count, name):
            seen.append(1 + count)
            super().__init__(count, name)

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Counted)
    return seen


def test_none_is_what_scikit_learn_means(digits, all_processors, counts):
    assert n_threads(None) == 1
    assert n_threads(3) == 3
    assert n_threads(-1) == joblib.cpu_count() == joblib.effective_n_jobs(-1)
    assert n_threads(-1000) == 1
    X = np.tile(digits[0], (4, 1))
    SOFM((8, 8), n_epochs=1).fit(X)
    assert counts == []
    with joblib.parallel_config(n_jobs=3):
        assert n_threads(None) == 3
        SOFM((8, 8), n_epochs=1).fit(X)
    with joblib.parallel_config("threading", n_jobs=4):
        SOFM((8, 8), n_epochs=1).fit(X)
        SOFM((8, 8), n_epochs=1, n_jobs=2).fit(X)
    assert counts == [3, 4, 2]


def test_the_quota_of_a_container(monkeypatch, all_processors):
    from joblib.externals.loky.backend import context

    monkeypatch.setattr(context, "_cpu_count_cgroup", lambda cpus: 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(context, "_cpu_count_affinity", lambda cpus: 64)
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    assert joblib.cpu_count() == 3, "what joblib reads of cgroups"
    assert n_threads(-1) == 3
    assert n_threads(-2) == 2


def count_in_worker(n_jobs):
    return n_threads(n_jobs)


def test_nested_limits(all_processors):
    with joblib.parallel_config("loky", inner_max_num_threads=1):
        inner = joblib.Parallel(n_jobs=2)(joblib.delayed(count_in_worker)(n) for n in (-1, None))
    assert inner == [1, 1]
    inner = joblib.Parallel(n_jobs=2, backend="threading")(
        joblib.delayed(count_in_worker)(None) for _ in range(2)
    )
    assert inner == [1, 1]


def test_the_environment_limits_all_processors(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    assert n_threads(-1) == 1
    assert n_threads(2) == 2


def test_fifty_fits_leave_no_threads(digits):
    before = threading.active_count()
    X = np.tile(digits[0], (3, 1))

    def fails(som, record):
        raise RuntimeError("callback")

    for i in range(50):
        som = SOFM((8, 8), n_epochs=2, n_jobs=1 + i % 7)
        if i % 5:
            som.fit(X)
        else:
            with pytest.raises(RuntimeError, match="callback"):
                som.set_params(callback=fails).fit(X)
    assert threading.active_count() <= before


@pytest.mark.parametrize("count", [2, 3, 8])
def test_ranges_are_all_done_once(count):
    with ThreadPoolExecutor(count - 1) as pool:
        for n in (1, 7, 1000):
            done = Threads(count, pool).share(n, 1e6, list, lambda i, j, mine: mine.append((i, j)))
            ranges = sorted(r for mine in done for r in mine)
            assert ranges[0][0] == 0
            assert ranges[-1][1] == n
            assert all(a[1] == b[0] for a, b in pairwise(ranges))
            assert max(j - i for i, j in ranges) * 1e6 <= max(threads.STEP, 1e6)


def test_an_error_in_a_thread_ends_the_others():
    begun = []

    def work(i, j, mine):
        begun.append(i)
        if i >= 3:
            raise ValueError("row 3")
        time.sleep(0.01)

    with ThreadPoolExecutor(3) as pool, pytest.raises(ValueError, match="row 3"):
        Threads(4, pool).share(10_000, threads.STEP, list, work)
    assert len(begun) < 12


INTERRUPTED = """
import os, signal, threading, time
import numpy as np
from scipy import sparse
from rejuvenet.sofm import SOFM
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
rows = np.random.default_rng(0).standard_normal((60_000, 128)).astype("f4")

def interrupted(X, **options):
    som, sent = SOFM(512, n_epochs=500, **options), []

    def interrupt():
        time.sleep(0.3)
        sent[:] = [time.perf_counter(), time.process_time()]
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        som.fit(X)
    except KeyboardInterrupt:
        # On a machine that others use, the processor's time is what is left of ours.
        took = min(time.perf_counter() - sent[0], time.process_time() - sent[1])
    time.sleep(0.1)
    idle = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - idle < 0.1, "something works on"
    assert threading.active_count() == 1
    assert not hasattr(som, "codebook_")
    return took

for X, options in (
    (rows, {"n_jobs": 1}),
    (rows, {"n_jobs": 2}),
    (sparse.csr_matrix(rows[:20_000]), {"n_jobs": 2}),
    (rows, {"n_jobs": 1, "algorithm": "online"}),
):
    SOFM(512, n_epochs=1, **options).fit(X[:600])
    for _ in range(3):  # a busy machine may hold up one of them
        took = interrupted(X, **options)
        if took < 0.2:
            break
    assert took < 0.2, (options, took)
"""


def test_an_interrupt_ends_all_work():
    subprocess.run([sys.executable, "-c", INTERRUPTED], check=True, timeout=120)


def test_fits_at_the_same_time(digits):
    X = digits[0]
    alone = SOFM((10, 10)).fit(X)
    with ThreadPoolExecutor(4) as pool:
        fits = list(pool.map(lambda n: SOFM((10, 10), n_jobs=3).fit(X), range(12)))
    for som in fits:
        assert som.codebook_.tobytes() == alone.codebook_.tobytes()
        assert som.history_ == alone.history_


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("error", "ignore:This process .*multi-threaded:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own(digits):
    X = digits[0]
    whole = SOFM((10, 10), n_epochs=3, n_jobs=2).fit(X)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        child = pool.apply_async(SOFM((10, 10), n_epochs=3, n_jobs=2).fit, (X,)).get(timeout=60)
    assert child.codebook_.tobytes() == whole.codebook_.tobytes()


def test_a_thread_is_not_asked_for_less_than_it_is_worth(digits, monkeypatch):
    monkeypatch.setattr(threads, "WORTH_THREAD", 2e6)
    X = digits[0]
    with threads_for(64, InMemory(X[:100]), 10) as few:
        assert few.count == 1
    with threads_for(64, InMemory(X), 100) as some:
        assert 2 <= some.count <= 8
