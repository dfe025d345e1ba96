"""Files to measure, quickly made: noise of a lamp, the layout of the simulated camera's raw files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptc_stream.simulator import Scenario, plan
from ptc_stream.simulator.camera import AMPLIFIER_NAMES
from ptc_stream.simulator.rawfile import raw_file

__all__ = ["write_flats"]

_BIAS = 1000.0
_GAIN = 1.5
_READ_NOISE = 5.0


def write_flats(
    directory: Path,
    *,
    pairs: int,
    shape: tuple[int, int],
    compressed: bool = False,
    amplifiers: int = 16,
    seed: int = 1,
) -> list[Path]:
    """Write flat pairs of rising signal, as files of one CCD, in the order in which they were taken.

    The signal stays below saturation, and the noise of all exposures is cut from one piece at different
    places: to draw it anew would take longer than what is to be timed.

    Parameters
    ----------
    directory
        Exists.
    pairs
        How many.
    shape
        Rows and columns of the imaging area of one amplifier.
    compressed
        Tile-compressed (RICE_1) or plain.
    amplifiers, seed
        As in `Scenario`.

    Returns
    -------
    list of Path
        Two per pair.
    """
    scenario = Scenario(
        seed=seed,
        run="bench",
        shape=shape,
        amplifiers=amplifiers,
        levels=pairs,
        highest_level=90e3,
        biases_every=0,
        darks_every=0,
        compressed=compressed,
    )
    rows = shape[0] + scenario.overscan_rows
    columns = scenario.prescan_columns + shape[1] + scenario.overscan_columns
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows + 997, columns + 89), dtype=np.float32)
    paths = []
    for number, planned in enumerate(plan(scenario)):
        signal = planned.signal / _GAIN
        frames = {}
        for index, name in enumerate(AMPLIFIER_NAMES[:amplifiers]):
            place = number * amplifiers + index
            top, left = 37 * place % 997, 11 * place % 89
            frames[name] = _frame(noise[top : top + rows, left : left + columns], signal, shape, scenario)
        path = directory / planned.file_name
        raw_file(scenario, dataclasses.replace(planned), frames).writeto(path)
        paths.append(path)
    return paths


def _frame(
    noise: NDArray[np.float32], signal: float, shape: tuple[int, int], scenario: Scenario
) -> NDArray[np.int32]:
    """One raw frame: bias and read noise everywhere, light and shot noise in the imaging area."""
    frame = _BIAS + np.float32(_READ_NOISE / _GAIN) * noise
    left = scenario.prescan_columns
    area = (slice(0, shape[0]), slice(left, left + shape[1]))
    sigma = np.sqrt(signal / _GAIN + (_READ_NOISE / _GAIN) ** 2)
    frame[area] = _BIAS + signal + np.float32(sigma) * noise[area]
    rounded: NDArray[np.int32] = np.rint(frame).astype(np.int32)
    return rounded
