"""How far outputs moved: of several of them, of masks, of what is no number, of other shapes."""

import math

import numpy as np
import pytest
from rejuvenet.graph.measure.output_change import OutputChange
from rejuvenet.graph.network import ALONE

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(6, 4))


def compared(before, after, batches=2, out=None):
    """Of lists of outputs, in batches."""
    change = OutputChange()
    parts = np.array_split(np.arange(len(before[0])), batches)
    for part in parts:
        change.before([x[part] for x in before])
    change.again()
    for part in parts:
        change.after([x[part] for x in after], None if out is None else out[part])
    change.share(ALONE)
    return change


def test_the_root_mean_square_of_the_change():
    change = compared([SCORES], [SCORES * 1.1])
    assert change.relative == pytest.approx(0.1)
    assert change.largest == pytest.approx(0.1 * np.abs(SCORES).max())
    assert change.agreement == 1.0
    assert not change.unlike


@pytest.mark.parametrize("mask", [-1e9, np.finfo(np.float32).min, -np.inf, np.nan])
@pytest.mark.parametrize("batches", [1, 2, 6])
def test_a_mask_says_nothing_of_how_large_outputs_are(mask, batches):
    masked = np.full((6, 1), mask)
    before, after = (np.hstack([x, masked]) for x in (SCORES, SCORES * 1.1))
    change = compared([before], [after], batches)
    assert change.relative == pytest.approx(0.1)
    assert change.largest == pytest.approx(0.1 * np.abs(SCORES).max())


def test_the_output_that_changed_most_counts():
    large = 1e6 * RNG.normal(size=(6, 3))
    assert compared([large, SCORES], [large, SCORES * 1.1]).relative == pytest.approx(0.1)
    assert compared([SCORES, large], [SCORES, large * 1.2]).relative == pytest.approx(0.2)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_becomes_no_number_is_an_infinite_change(value):
    after = SCORES.copy()
    after[2, 1] = value
    for pair in ((SCORES, after), (after, SCORES)):
        change = compared([pair[0]], [pair[1]])
        assert change.relative == change.largest == math.inf


def test_outputs_of_another_shape_cannot_be_compared():
    boxes = RNG.normal(size=(6, 2))
    change = OutputChange()
    change.before([SCORES, boxes])
    change.again()
    change.after([SCORES, boxes[:5]])
    assert change.unlike
    assert change.relative == math.inf
    change.again()
    change.after([SCORES, boxes])
    assert not change.unlike
    assert change.relative == 0.0


def test_figures_are_of_held_out_samples():
    out = np.array([False, True] * 3)
    after = SCORES * np.where(out, 1.2, 1.5)[:, None]
    change = compared([SCORES], [after], out=out)
    assert change.held_out == 3
    assert change.relative == pytest.approx(0.2)


def test_an_output_without_samples_counts_beside_one_with_them():
    out = np.array([False, True] * 3)
    whole = RNG.normal(size=(3, 5))
    change = OutputChange()
    change.before([SCORES, whole])
    change.again()
    change.after([SCORES, whole * 1.3], out)
    change.share(ALONE)
    assert change.relative == pytest.approx(0.3)
    assert change.largest == pytest.approx(0.3 * np.abs(whole).max())
