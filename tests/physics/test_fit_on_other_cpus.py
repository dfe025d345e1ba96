"""No result hangs on the last bits: machine code for another type of CPU gives the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ptc_stream.physics.fitting import FitConfig, fit_amplifier
from ptc_stream.physics.models import FitModel
from tests.curves import Sensor, full_points


def fitted() -> list[NDArray[np.float64]]:
    """Parameters and errors of every model for runs of several lengths."""
    results = []
    for count in (12, 60, 337):
        for model in FitModel:
            for seed in range(3):
                mean = np.linspace(300.0, 9e4, count)
                points = full_points(mean, Sensor.of(8), np.random.default_rng(seed), lamp=0.003)
                fit = fit_amplifier(points, FitConfig(model=model))
                results.append(np.stack([fit.parameters, np.sqrt(np.diag(fit.parameter_covariance))]))
    return results


@pytest.mark.slow  # all kernels are compiled once more
def test_code_without_vector_units_gives_the_same_numbers(tmp_path: Path) -> None:
    written = tmp_path / "generic.npz"
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }
    program = (
        "import sys, numpy; from tests.physics.test_fit_on_other_cpus import fitted; "
        "numpy.savez(sys.argv[1], *fitted())"
    )
    subprocess.run([sys.executable, "-c", program, str(written)], env=environment, check=True, timeout=110)
    other = np.load(written)
    for one, name in zip(fitted(), other.files, strict=True):
        errors = one[1]
        np.testing.assert_allclose((other[name][0] - one[0]) / errors, 0.0, atol=1e-11)
        np.testing.assert_allclose(other[name][1], errors, rtol=1e-12)
