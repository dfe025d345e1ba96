"""Simulated runs whose truth is known: LSST-like raw FITS with exactly the covariances of Eq. 20.

::

    truth = write_run(Scenario(seed=3, levels=10), Path("sim"))
    truth.detectors["R22_S11"]["C10"].gain

What is exact and what is not
-----------------------------
Half the covariance of the difference of the two flats of a pair is Eq. 20 of Astier et al. 2019 at the
amplifier's mean, at every lag, rounding to integers included, and the third cumulant of the charge is
that of Poisson. Exceptions, all of them settings of the `Scenario`: with a ``gradient`` the variance follows
the local mean (at 2 % its average over an amplifier differs from Eq. 20 at the mean by under 1e-5) while the
correlations are those at the mean; bad columns and cosmic rays are what they are; above ``turnoff`` the
variance leaves Eq. 20 on purpose.
"""

from __future__ import annotations

from ptc_stream.simulator.planning import Fault, PlannedExposure, in_writing_order, plan
from ptc_stream.simulator.scenario import Scenario
from ptc_stream.simulator.truth import AmplifierTruth, Saturation, Truth, covariances_eq20
from ptc_stream.simulator.writing import TRUTH_FILE, truth_of, write_exposure, write_run

__all__ = [
    "TRUTH_FILE",
    "AmplifierTruth",
    "Fault",
    "PlannedExposure",
    "Saturation",
    "Scenario",
    "Truth",
    "covariances_eq20",
    "in_writing_order",
    "plan",
    "truth_of",
    "write_exposure",
    "write_run",
]
