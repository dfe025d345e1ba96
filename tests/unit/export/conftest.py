from __future__ import annotations

import pytest

from ptc_stream.export.results import RunResult
from tests.unit.export.made_up import MadeUpRun, make_run


@pytest.fixture(scope="session")
def run() -> MadeUpRun:
    """Two detectors of 16 amplifiers with all that can go wrong."""
    return make_run()


@pytest.fixture(scope="session")
def result(run: MadeUpRun) -> RunResult:
    return RunResult("13144", run.fits, run.covariances, unpaired=2, rejected=1)
