"""Class means against the plain definition."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rejuvenet.graph import ClassMeans


def naive_means(activations, labels, C):
    """Eq. 1, class by class."""
    flat = activations.astype(np.float64)
    return np.stack([flat[labels == c].mean(axis=0) for c in range(C)])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.sampled_from([(), (3,), (2, 3), (2, 2, 3)]),
)
def test_they_are_those_of_the_definition(seed, C, spatial):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(C), rng.integers(0, C, 20)]))
    activations = rng.normal(size=(len(labels), 4, *spatial)).astype(np.float32)
    means = ClassMeans.of(activations, labels)
    expected = naive_means(activations, labels, C)
    assert means.Q.dtype == np.float32
    assert means.Q.ndim == 4
    np.testing.assert_allclose(means.Q.reshape(expected.shape), expected, atol=2e-6)
    np.testing.assert_array_equal(means.counts, np.bincount(labels, minlength=C))
    axes = tuple(i for i in range(activations.ndim) if i != 1)
    np.testing.assert_allclose(means.activity, np.abs(activations).mean(axis=axes), rtol=1e-5)


def test_class_weights_are_weighted_means():
    rng = np.random.default_rng(0)
    activations, weights = rng.normal(size=(9, 4, 2)), rng.random((9, 3))
    means = ClassMeans.of(activations, weights, "abc")
    expected = np.stack([np.average(activations, axis=0, weights=w) for w in weights.T])
    np.testing.assert_allclose(means.Q[:, :, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    means = ClassMeans.of(np.full((400, 2), 1024, dtype=dtype), np.zeros(400, dtype=int))
    np.testing.assert_array_equal(means.Q.ravel(), [1024, 1024])


def test_sums_of_many_samples_are_exact():
    activations = np.full((2000, 1), 1e4 + 0.1, dtype=np.float32)
    means = ClassMeans.of(activations, np.zeros(2000, dtype=int))
    assert means.Q[0, 0, 0, 0] == np.float32(1e4 + 0.1)


def test_class_without_samples_is_named():
    means = ClassMeans.of(np.ones((2, 3)), np.array([0, 2]), ["cat", "dog", "eel"])
    with pytest.raises(ValueError, match="'dog'"):
        _ = means.Q


def test_channel_that_is_not_finite_is_named():
    activations = np.ones((2, 3, 4, 4))
    activations[1, 2, 3, 3] = np.nan
    with pytest.raises(ValueError, match="channel 2"):
        ClassMeans.of(activations, np.array([0, 0])).check()


@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (np.ones((2, 3)), np.array([0, 1, 0]), r"shape \(2,\)"),
        (np.ones((2, 3)), np.array([0, 2]), "from 0 to 1, got 2"),
        (np.ones((2, 3)), np.array([0, -1]), "got -1"),
        (np.ones((2, 3)), np.array([0.0, 1.0]), "integer labels"),
        (np.ones((2, 3)), np.ones((2, 3)), r"\(2, 2\), got \(2, 3\)"),
        (np.ones((2, 3)), -np.ones((2, 2)), "at least 0"),
        (np.ones(2), np.array([0, 1]), "samples, channels"),
    ],
)
def test_what_does_not_pair_is_refused(activations, labels, message):
    with pytest.raises(ValueError, match=message):
        ClassMeans.of(activations, labels, ["a", "b"])
