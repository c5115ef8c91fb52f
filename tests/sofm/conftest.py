"""Lets the tests of this folder ``import naive``; their small data are worth several threads."""

import sys
from pathlib import Path

from hypothesis import settings
from rejuvenet.sofm import threads

sys.path.insert(0, str(Path(__file__).parent))
settings.register_profile("sofm", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("sofm")
threads.WORTH_THREAD = threads.LEAST = 1e5  # of multiply-adds
