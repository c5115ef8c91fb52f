"""Lets the tests of this folder ``import naive``; their small data are worth several threads."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings
from rejuvenet.sofm import threads
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("sofm", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("sofm")
threads.WORTH_THREAD = threads.LEAST = 1e5  # of multiply-adds


@pytest.fixture(scope="session")
def digits():
    X, y = load_digits(return_X_y=True)
    return X.astype("float32"), y
