"""Streamed class means against the plain definition."""

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
    st.integers(1, 9),
)
def test_stream_equals_definition(seed, C, spatial, batch):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(C), rng.integers(0, C, 20)]))
    activations = rng.normal(size=(len(labels), 4, *spatial)).astype(np.float32)
    halves = [ClassMeans.empty(range(C)), ClassMeans.empty(range(C))]
    for i, start in enumerate(range(0, len(labels), batch)):
        part = slice(start, start + batch)
        halves[i % 2].update(activations[part], labels[part])
    means = halves[0].merge(halves[1])
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
    means = ClassMeans.empty("abc")
    means.update(activations, weights)
    expected = np.stack([np.average(activations, axis=0, weights=w) for w in weights.T])
    np.testing.assert_allclose(means.Q[:, :, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_does_not_overflow(dtype):
    means = ClassMeans.empty(["one"])
    for _ in range(4):
        means.update(np.full((100, 2), 1024, dtype=dtype), np.zeros(100, dtype=int))
    np.testing.assert_array_equal(means.Q.ravel(), [1024, 1024])


def test_accumulation_is_exact_over_many_batches():
    means = ClassMeans.empty([0])
    for _ in range(2000):
        means.update(np.full((1, 1), 1e4 + 0.1, dtype=np.float32), np.array([0]))
    assert means.Q[0, 0, 0, 0] == np.float32(1e4 + 0.1)


def test_class_without_samples_is_named():
    means = ClassMeans.empty(["cat", "dog", "eel"])
    means.update(np.ones((2, 3)), np.array([0, 2]))
    with pytest.raises(ValueError, match="'dog'"):
        means.check()


def test_channel_that_is_not_finite_is_named():
    means = ClassMeans.empty([0])
    activations = np.ones((2, 3, 4, 4))
    activations[1, 2, 3, 3] = np.nan
    means.update(activations, np.array([0, 0]))
    with pytest.raises(ValueError, match="channel 2"):
        means.check()


@pytest.mark.parametrize(
    ("activations", "labels", "message"),
    [
        (np.ones((2, 3)), np.array([0, 1, 0]), "2 samples"),
        (np.ones((2, 3)), np.array([0, 2]), "from 0 to 1, got 2"),
        (np.ones((2, 3)), np.array([0, -1]), "got -1"),
        (np.ones((2, 3)), np.array([0.0, 1.0]), "integer labels"),
        (np.ones(2), np.array([0, 1]), "samples, channels"),
        (np.ones((2, 4)), np.array([0, 1]), "as in the batches before"),
    ],
)
def test_refuses_and_keeps_its_sums(activations, labels, message):
    means = ClassMeans.empty(["a", "b"])
    means.update(np.ones((1, 3)), np.array([0]))
    with pytest.raises(ValueError, match=message):
        means.update(activations, labels)
    assert means.sums.sum() == 3.0
    assert means.counts.tolist() == [1.0, 0.0]


def test_no_classes_and_no_samples():
    with pytest.raises(ValueError, match="at least one class"):
        ClassMeans.empty([])
    with pytest.raises(ValueError, match="every class"):
        _ = ClassMeans.empty([0]).Q
    with pytest.raises(ValueError, match="same classes"):
        ClassMeans.empty([0]).merge(ClassMeans.empty([1]))
