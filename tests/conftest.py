"""Shared by all tests: the CPU accelerator, one thread a rank, and one pair of live ranks for the whole session."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# The ranks import the functions that a test sends them.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def root():
    """The repository's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def _pairs_of_ranks():
    started = []
    yield started
    for ranks in started:
        ranks.stop()


@pytest.fixture
def two_ranks(_pairs_of_ranks):
    """Two live CPU ranks, the same for every test; fresh ones where a test has stopped them."""
    from labsupport.cluster import Ranks

    if not _pairs_of_ranks or not _pairs_of_ranks[-1].alive:
        _pairs_of_ranks.append(Ranks(2, "cpu"))
    return _pairs_of_ranks[-1]
