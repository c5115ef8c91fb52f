"""The channels from which the others are told best, beside a search by hand."""

import numpy as np
import pytest
from rejuvenet.graph.plan.subset import subset


def missed(X, H, chosen):
    """What consumers miss with the best linear map from some channels."""
    S = list(chosen)
    best = X[:, S] @ np.linalg.pinv(X[np.ix_(S, S)]) @ X[S] if S else 0 * X
    return np.trace(H @ (X - best)) / np.trace(H @ X)


@pytest.mark.parametrize("seed", range(3))
def test_each_choice_is_the_best_next_one(seed):
    random = np.random.default_rng(seed)
    x, V = random.normal(size=(40, 6)) @ random.normal(size=(6, 9)), random.normal(size=(9, 4))
    X, H = x.T @ x, V @ V.T
    found, chosen = subset(X, H), []
    for k in range(6):  # six channels tell all nine
        assert found.missed[k] == pytest.approx(missed(X, H, chosen), abs=1e-9)
        best = min(missed(X, H, [*chosen, j]) for j in set(range(9)) - set(chosen))
        chosen.append(int(found.order[k]))
        assert missed(X, H, chosen) == pytest.approx(best, abs=1e-9)
    assert found.missed[6:].max() < 1e-9
    assert sorted(found.order) == list(range(9))


def test_what_nobody_reads_and_what_is_silent_come_last():
    X, H = np.diag([1.0, 9.0, 0.0, 4.0]), np.diag([1.0, 0.0, 1.0, 1.0])
    assert subset(X, H).order.tolist()[:2] == [3, 0]
    assert subset(0 * X, H).missed.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("seed", range(20))
def test_where_nothing_is_missed_any_more_each_channel_is_still_chosen_once(seed):
    """What the others would take is then rounding, of either sign."""
    random = np.random.default_rng(seed)
    x, read = random.normal(size=(40, 12)), random.normal(size=(12, 1))
    X, read[3:] = x.T @ x, 0.0
    found = subset(X, read @ read.T)
    assert sorted(found.order) == list(range(12))
    assert found.missed[3] < 1e-10
