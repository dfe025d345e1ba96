from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from ptc_stream.errors import ConfigurationError
from ptc_stream.simulator import Scenario


def test_every_setting_says_what_it_means_and_passes_its_own_limits() -> None:
    for field in dataclasses.fields(Scenario):
        assert field.metadata["meaning"].endswith(".")
        assert isinstance(field.metadata["unit"], str)
    values = {field.name: field.default for field in dataclasses.fields(Scenario)}
    assert TypeAdapter(Scenario).validate_python(values) == Scenario()


def test_the_default_kernel_is_asymmetric_and_falls_off() -> None:
    a = np.array(Scenario().a_matrix)
    assert a.shape == (8, 8)
    assert a[0, 0] == -3e-6
    assert a[0, 1] == 2 * a[1, 0] > 0
    assert (np.diff(np.diagonal(a)[1:]) < 0).all()
    # The charge that one pixel loses is found in others, and never more of it.
    mirrored = a[np.ix_(np.abs(np.arange(-7, 8)), np.abs(np.arange(-7, 8)))]
    assert a[0, 0] < mirrored.sum() < 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gain_range": (1.8, 0.7)}, "gain_range must rise"),
        ({"read_noise_range": (0.0, 0.7)}, "read_noise_range must rise"),
        ({"full_well_range": (-1.0, 1e5)}, "full_well_range must rise"),
        ({"lowest_level": 2e5}, "lowest_level"),
        ({"levels": 50, "lowest_level": 100.0, "highest_level": 110.0, "lamp_rate": 1e5}, "0.1 ms"),
        ({"filters": ("r", "i")}, "equally many"),
        ({"detectors": ("R22_S11", "R22_S11")}, "twice"),
        ({"detectors": ("ccd1",)}, "not a raft and a slot"),
        ({"detectors": ("R22_S11_C10",)}, "not a raft and a slot"),
        ({"a_matrix": ((-3e-6,),)}, "of one size"),
        ({"a_matrix": (), "b_matrix": ()}, "square"),
        ({"a_matrix": ((-3e-6, 0.0),), "b_matrix": ((0.0, 0.0),)}, "square"),
        ({"a_matrix": ((-3e-6,),), "b_matrix": ((0.0,),), "serial_noise_correlation": 0.1}, "2 x 2"),
        ({"read_noise_range": (1.0, 9.0)}, "rounding to integers"),
        ({"dead_amplifiers": ("R22_S11/C20",)}, "no such amplifiers: R22_S11/C20"),
        ({"nan_amplifiers": ("R22_S11/C07",), "amplifiers": 8}, "no such amplifiers"),
        ({"start": "yesterday"}, "start is not a time"),
        ({"start": "2025-03-01T20:00:00+01:00"}, "UTC"),
        ({"lowest_level": 0.2, "levels": 2}, "shorter than 0.1 ms"),
        ({"run": "Läufe"}, "does not fit a FITS header"),
        ({"filters": ("",)}, "does not fit a FITS header"),
        ({"instrument": "x" * 41}, "does not fit a FITS header"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Scenario(**settings)


def test_little_noise_is_fine_where_nothing_is_rounded() -> None:
    assert Scenario(read_noise_range=(1.0, 9.0), pixel_type="float32").pixel_type == "float32"
