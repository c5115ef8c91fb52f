"""Threads that stay awake between epochs: the same bits as one thread, come or gone."""

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from rejuvenet.sofm import SOFM, atomic, turns, workers
from rejuvenet.sofm.batch import Threads, threads_for
from rejuvenet.sofm.samples import InMemory
from rejuvenet.sofm.vectors import address


@pytest.fixture(scope="module")
def problem(digits):
    X = digits[0]
    return X, [X[i : i + 100] for i in range(0, 600, 100)]


def epochs(X, codebooks, threads, before=lambda turn: None):
    samples = InMemory(X)
    samples.begin(codebooks[0], threads)
    for turn, codebook in enumerate(codebooks):
        before(turn)
        sums, counts, error = samples.epoch(codebook)
        yield sums.tobytes(), counts.tobytes(), error


@pytest.mark.parametrize("count", [2, 3, 8])
def test_turns_give_the_same_bits(problem, count):
    X, codebooks = problem
    alone = list(epochs(X, codebooks * 20, Threads()))
    with ThreadPoolExecutor(count - 1) as pool:
        threads = Threads(count, pool)
        with threads.at_end:
            assert list(epochs(X, codebooks * 20, threads)) == alone


def test_workers_take_part(problem):
    X, codebooks = problem
    samples = InMemory(X)
    with threads_for(2, samples, len(codebooks[0])) as threads:
        samples.begin(codebooks[0], threads)
        end = time.monotonic() + 30
        joined = False
        while not joined and time.monotonic() < end:
            samples.epoch(codebooks[0])
            board = samples.workers.board
            joined = bool((board[turns.LINE :: turns.LINE] % 4 == turns.DONE).any())
    assert joined


def test_workers_that_went_away_are_sent_for_again(problem, monkeypatch):
    X, codebooks = problem
    sent = []
    send = workers.Workers._send
    monkeypatch.setattr(
        workers.Workers, "_send", lambda self, i: (sent.append(i), send(self, i))[1]
    )
    pauses = lambda turn: time.sleep(0.5 if turn == 3 else 0)  # noqa: E731
    with ThreadPoolExecutor(1) as pool:
        threads = Threads(2, pool)
        with threads.at_end:
            together = list(epochs(X, codebooks, threads, pauses))
    assert together == list(epochs(X, codebooks, Threads()))
    assert len(sent) >= 2


def test_threads_stay_but_do_not_gather(problem):
    X, _ = problem
    SOFM((10, 10), n_epochs=3, n_jobs=4).fit(X)
    before = threading.active_count()

    def fails(som, record):
        raise RuntimeError("callback")

    for _ in range(5):
        SOFM((10, 10), n_epochs=3, n_jobs=4).fit(X)
        with pytest.raises(RuntimeError, match="callback"):
            SOFM((10, 10), n_jobs=4, callback=fails).fit(X)
    assert threading.active_count() <= before + 3
    begun = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - begun < 0.2, "threads sleep when nothing is to be done"


def test_fits_at_the_same_time(problem):
    X, _ = problem
    alone = SOFM((10, 10)).fit(X)
    with ThreadPoolExecutor(4) as pool:
        fits = list(pool.map(lambda n: SOFM((10, 10), n_jobs=3).fit(X), range(12)))
    for som in fits:
        assert som.codebook_.tobytes() == alone.codebook_.tobytes()
        assert som.history_ == alone.history_


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own(problem):
    X, _ = problem
    whole = SOFM((10, 10), n_epochs=3, n_jobs=2).fit(X)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        child = pool.apply_async(SOFM((10, 10), n_epochs=3, n_jobs=2).fit, (X,)).get(timeout=60)
    assert child.codebook_.tobytes() == whole.codebook_.tobytes()


def test_a_thread_is_not_asked_for_less_than_it_is_worth(problem):
    X, _ = problem
    few = InMemory(X[:100])
    with threads_for(64, few, 10) as threads:
        assert threads.count == 1
    with threads_for(64, InMemory(X), 100) as threads:
        assert 2 <= threads.count <= 8


def test_words_change_at_once():
    words = np.zeros(4, np.int64)
    at = address(words)
    if not isinstance(at, int):
        pytest.skip("no JIT")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda _: atomic.fetch_add(at, 1, 3), range(2000)))
    finally:
        sys.setswitchinterval(interval)
    assert sorted(seen) == list(range(0, 6000, 3))
    assert atomic.load(at, 1) == words[1] == 6000
    assert atomic.compare_exchange(at, 1, 6000, 5)
    assert not atomic.compare_exchange(at, 1, 6000, 7)
    atomic.store(at, 3, 9)
    assert words.tolist() == [0, 5, 0, 9]
    portable = np.zeros(4, np.int64)
    assert [atomic.fetch_add_portable(portable, 2, 4) for _ in range(3)] == [0, 4, 8]
