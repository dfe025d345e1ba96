from __future__ import annotations

import numpy as np
import pytest

from ptc_stream.simulator import Scenario, truth_of
from ptc_stream.simulator.camera import AMPLIFIER_NAMES, detector_box


def test_amplifiers_stand_in_the_order_of_lsst_files() -> None:
    assert AMPLIFIER_NAMES[0] == "C10"
    assert AMPLIFIER_NAMES[7:10] == ("C17", "C07", "C06")
    assert AMPLIFIER_NAMES[15] == "C00"


def test_halves_are_read_out_in_opposite_directions() -> None:
    # As in the e2v sensors of LSSTCam.
    assert str(detector_box("C10", (2002, 512))) == "[512:1,1:2002]"
    assert str(detector_box("C17", (2002, 512))) == "[4096:3585,1:2002]"
    assert str(detector_box("C07", (2002, 512))) == "[3585:4096,4004:2003]"
    assert str(detector_box("C00", (2002, 512))) == "[1:512,4004:2003]"


def test_amplifiers_tile_the_detector() -> None:
    covered = np.zeros((80, 400), dtype=int)
    for name in AMPLIFIER_NAMES:
        box = detector_box(name, (40, 50))
        x, y = sorted((box.x_first, box.x_last)), sorted((box.y_first, box.y_last))
        covered[y[0] - 1 : y[1], x[0] - 1 : x[1]] += 1
    assert (covered == 1).all()


def test_amplifiers_differ_within_their_ranges() -> None:
    truth = truth_of(Scenario(detectors=("R22_S11", "R22_S12"), dead_amplifiers=("R22_S12/C03",)))
    amplifiers = [amplifier for detector in truth.detectors.values() for amplifier in detector.values()]
    for quantity, low, high in (("gain", 0.7, 1.8), ("read_noise", 4.0, 9.0), ("bias_level", 900.0, 1100.0)):
        values = [getattr(amplifier, quantity) for amplifier in amplifiers]
        assert len(set(values)) == 32
        assert low <= min(values) < max(values) <= high
    assert np.median([amplifier.gain for amplifier in amplifiers]) == pytest.approx(1.5, abs=0.15)
    assert {amplifier.saturation for amplifier in amplifiers} == {"drop", "upturn", "dip"}
    assert [amplifier.name for amplifier in amplifiers if amplifier.dead] == ["C03"]
    for amplifier in amplifiers:
        assert amplifier.noise_matrix[0, 0] == amplifier.read_noise**2
        assert np.count_nonzero(amplifier.noise_matrix) == 1
        assert 95e3 <= amplifier.turnoff * amplifier.gain <= 130e3
        assert amplifier.a_matrix[0, 0] == pytest.approx(-3e-6, rel=0.15)
    bad = [len(a.weak_columns) + len(a.hot_columns) for a in amplifiers]
    assert sum(bad[:16]) == sum(bad[16:]) == 1


def test_a_16_bit_converter_ends_the_curve_first() -> None:
    amplifiers = truth_of(Scenario(pixel_type="uint16")).detectors["R22_S11"].values()
    assert all(a.turnoff + a.bias_level < 65535 for a in amplifiers)
    assert any(a.turnoff * a.gain < 95e3 for a in amplifiers)


def test_the_truth_of_a_detector_does_not_depend_on_its_neighbours() -> None:
    alone = truth_of(Scenario(detectors=("R22_S12",))).detectors["R22_S12"]["C04"]
    together = truth_of(Scenario(detectors=("R22_S11", "R22_S12"))).detectors["R22_S12"]["C04"]
    assert (alone.gain, alone.read_noise, alone.turnoff) == (
        together.gain,
        together.read_noise,
        together.turnoff,
    )
