"""What stands in an LSST-like raw FITS file."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from ptc_stream.simulator.camera import AMPLIFIER_NAMES, Box, detector_box

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ptc_stream.simulator.planning import PlannedExposure
    from ptc_stream.simulator.scenario import Scenario

__all__ = ["raw_file"]

_MJD_EPOCH = dt.datetime(1858, 11, 17, tzinfo=dt.UTC)
_NANOAMPERE_PER_ELECTRON_RATE = 2.0e-4  # of the monitoring diode; any constant serves


def raw_file(
    scenario: Scenario, planned: PlannedExposure, frames: Mapping[str, NDArray[Any]]
) -> fits.HDUList:
    """Arrange one exposure of one detector as the camera's own files are.

    Parameters
    ----------
    scenario
        The run.
    planned
        Which exposure, of which detector.
    frames
        Raw frame of every amplifier by name, in the order of the extensions.

    Returns
    -------
    astropy.io.fits.HDUList
        Primary header, one image per amplifier, two tables of the electronics. No BIASSEC, GAIN or RDNOISE,
        as on the mountain; no time of writing, so that the same exposure has the same bytes.
    """
    hdus: list[Any] = [fits.PrimaryHDU(header=_primary_header(scenario, planned))]
    for name, frame in frames.items():
        header = _amplifier_header(scenario, name, frame)
        if not scenario.compressed:
            hdus.append(fits.ImageHDU(frame, header))
        elif frame.dtype == np.float32:
            # RICE_1 would round floats; these keep every bit.
            hdus.append(fits.CompImageHDU(frame, header, compression_type="GZIP_1", quantize_level=0.0))
        else:
            hdus.append(fits.CompImageHDU(frame, header, compression_type="RICE_1"))
    hdus += _electronics_tables(planned)
    return fits.HDUList(hdus)


def _primary_header(scenario: Scenario, planned: PlannedExposure) -> fits.Header:
    raft, slot = planned.detector.split("_")
    started = dt.datetime.fromisoformat(planned.started_at).replace(tzinfo=dt.UTC)
    diode = 0.0
    if planned.exposure_time > 0.0:
        diode = _NANOAMPERE_PER_ELECTRON_RATE * planned.signal / planned.exposure_time
    cards: list[tuple[str, Any, str]] = [
        ("ORIGIN", "ptc-stream simulator", "Not a real camera"),
        ("INSTRUME", scenario.instrument, "Instrument"),
        ("TELESCOP", "none", ""),
        ("RUNNUM", scenario.run, "Name of the run"),
        ("OBSID", planned.exposure, "Exposure"),
        ("IMGTYPE", planned.image_type, "BIAS, DARK or FLAT"),
        ("TESTTYPE", planned.image_type, ""),
        ("REASON", "ptc", ""),
        ("EXPTIME", planned.exposure_time, "[s] Exposure time"),
        ("DARKTIME", round(planned.exposure_time + 0.05, 4), "[s] Time between clear and read-out"),
        ("SEQNUM", planned.sequence_number, "Number of the exposure in its night"),
        ("DAYOBS", planned.day, "Night of the observation"),
        ("DATE-OBS", planned.started_at, "Start of the exposure, UTC"),
        ("MJD-OBS", (started - _MJD_EPOCH) / dt.timedelta(days=1), "[d] Start of the exposure, UTC"),
        ("TIMESYS", "UTC", ""),
        ("RAFTBAY", raft, "Raft"),
        ("CCDSLOT", slot, "Place of the detector in its raft"),
        ("LSST_NUM", f"SIM-CCD-{raft[1:]}{slot[1:]}", "Number of the detector"),
        ("CCD_MANU", "SIM", "Manufacturer of the detector"),
        ("FILTER", planned.filter, "Filter in the first slot"),
        ("FILTER2", "empty", "Filter in the second slot"),
        ("MONDIODE", diode, "[nA] Monitoring diode"),
        ("CCDTEMP", -100.0, "[deg C] Temperature of the detector"),
        ("SEQFILE", "simulated.seq", "Sequencer file"),
        ("REVISION", planned.revision, "Version of this file"),
    ]
    return fits.Header(cards)


def _amplifier_header(scenario: Scenario, name: str, frame: NDArray[Any]) -> fits.Header:
    rows, columns = scenario.shape
    prescan = scenario.prescan_columns
    whole = Box(1, 8 * columns, 1, 2 * rows)
    return fits.Header(
        [
            ("EXTNAME", f"Segment{name[1:]}", "Amplifier"),
            ("CHANNEL", AMPLIFIER_NAMES.index(name) + 1, "Number of the amplifier"),
            ("DATASEC", str(Box(prescan + 1, prescan + columns, 1, rows)), "Imaging area of the raw frame"),
            ("DETSEC", str(detector_box(name, scenario.shape)), "Imaging area on the detector"),
            ("DETSIZE", str(whole), "The detector"),
            ("CCDSUM", "1 1", "Binning"),
            (
                "AVERAGE",
                float(np.nanmean(frame, dtype=np.float64)) if np.isfinite(frame).any() else 0.0,
                "[ADU]",
            ),
        ]
    )


def _electronics_tables(planned: PlannedExposure) -> list[Any]:
    """Tables as the camera appends them: a reader of images must pass them by."""
    conditions = fits.BinTableHDU.from_columns(
        [
            fits.Column(name="NAME", format="8A", array=np.array(["TEMP1", "TEMP2", "VDD"])),
            fits.Column(name="VALUE", format="E", array=np.array([21.5, 22.0, 30.0], dtype=np.float32)),
        ],
        name="REB_COND",
    )
    times = np.linspace(0.0, planned.exposure_time, 5)
    currents = fits.BinTableHDU.from_columns(
        [
            fits.Column(name="AMP0_MEAS_TIMES", format="D", array=times),
            fits.Column(name="AMP0_A_CURRENT", format="D", array=np.zeros_like(times)),
        ],
        name="AMP0.MEAS_TIMES",
    )
    return [conditions, currents]
