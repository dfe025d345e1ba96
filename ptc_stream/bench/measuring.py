"""``bench measure``: pixels in, points out."""

from __future__ import annotations

import asyncio
import importlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from ptc_stream.bench.figures import Figure, cpu_seconds
from ptc_stream.bench.frames import write_flats
from ptc_stream.bench.hardware import memory_rate, multiply_add_rate
from ptc_stream.bench.reference import measure_in_numpy
from ptc_stream.images.reading import FitsFile
from ptc_stream.images.reduction import read_amplifier_pair
from ptc_stream.offload import ProcessOffload
from ptc_stream.physics._products import LANES, multiply_shifted
from ptc_stream.physics.covariance import lag_sums
from ptc_stream.physics.measuring import measure_points
from ptc_stream.physics.points import MeasuringConfig, PointMeasurement
from ptc_stream.physics.reference import fft_lag_sums
from ptc_stream.services.measuring import warm_up

__all__ = ["fourier_seconds", "measuring_figures"]

_AMPLIFIERS = 16
_CONFIG = MeasuringConfig()
_LAGS = _CONFIG.max_lag * (2 * _CONFIG.max_lag - 1)
_DEADLINE_S = 120.0
_JOBS = 6  # per worker: enough that the last one, on which the others wait, counts little


def measuring_figures(*, shape: tuple[int, int] = (2000, 512), repeats: int = 7) -> Iterator[Figure]:
    """Time the measurement of a flat pair of 16 amplifiers.

    Parameters
    ----------
    shape
        Rows and columns of the imaging area of an amplifier.
    repeats
        Runs of which the fastest counts.

    Yields
    ------
    Figure
    """
    pixels = shape[0] * shape[1]
    peak, memory = multiply_add_rate(), memory_rate()
    sums = pixels * _LAGS / peak
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(shape, dtype=np.float32)
    weights = rng.random(shape) > 1e-3
    noise[~weights] = 0.0
    limit_is = f"multiply-adds at the core's measured {peak / 1e9:.0f} G/s"
    kernel = cpu_seconds(_kernel(noise), repeats=repeats)
    yield Figure(
        name="products over 10x10 lags, one amplifier",
        value=kernel,
        unit="s",
        limit=sums,
        limit_is=limit_is,
        target=">= 40 % of the multiply-add rate",
        met=sums / kernel >= 0.4,
        note=f"{pixels * _LAGS / kernel / 1e9:.0f} G/s",
    )
    ours = cpu_seconds(lambda: lag_sums(noise, weights, _CONFIG.max_lag), repeats=repeats)
    fourier = fourier_seconds(shape)
    yield Figure(
        name="all sums over 10x10 lags, one amplifier, 0.1 % masked",
        value=ours,
        unit="s",
        reference=fourier,
        reference_is="the same by Fourier transform in double precision, the batch code's way",
        limit=sums,
        limit_is=limit_is,
        target=">= 15x the Fourier transform",
        met=fourier >= 15 * ours,
    )

    decoded = _pairs(shape, rng)
    whole = cpu_seconds(lambda: [_measure(*pair) for pair in decoded], repeats=repeats)
    in_numpy = _AMPLIFIERS * cpu_seconds(lambda: measure_in_numpy(*decoded[0], _CONFIG), repeats=2)
    yield Figure(
        name="decoded pair of 16 amplifiers, all statistics",
        value=whole,
        unit="s",
        reference=in_numpy,
        reference_is="the same statistics in numpy, the sums over lags by Fourier transform",
        limit=_AMPLIFIERS * (sums + 2 * 4 * pixels / memory),
        limit_is=f"multiply-adds, and both images from memory once ({memory / 1e9:.0f} GB/s)",
        target="<= 0.30 s, >= 15x numpy",
        met=whole <= 0.30 and in_numpy >= 15 * whole,
    )

    with tempfile.TemporaryDirectory(prefix="ptc-bench-") as folder:
        for kind in ("tile-compressed", "plain"):
            directory = Path(folder) / kind
            directory.mkdir()
            files = write_flats(directory, pairs=1, shape=shape, compressed=kind != "plain")
            yield from _from_files(kind, files, whole, repeats=repeats)
        yield from _workers(files)


def fourier_seconds(shape: tuple[int, int]) -> float:
    """CPU seconds of the sums over lags of one amplifier by Fourier transform."""
    noise = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    everywhere = np.ones(shape, np.bool_)
    return cpu_seconds(lambda: fft_lag_sums(noise, everywhere, _CONFIG.max_lag), repeats=3)


def _pairs(
    shape: tuple[int, int], rng: np.random.Generator
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Integers as a camera has them, with a level of zero per row; 16 pairs, more than any cache holds."""
    pairs = []
    for _ in range(_AMPLIFIERS):
        one, two = (
            np.rint(np.float32(20_000) + np.float32(120) * rng.standard_normal(shape, dtype=np.float32))
            - np.rint(2 * rng.random((shape[0], 1), dtype=np.float32)) / np.float32(2)
            for _ in range(2)
        )
        pairs.append((one, two))
    return pairs


def _kernel(image: NDArray[np.float32]) -> Callable[[], object]:
    """Return what only multiplies an image with its shifted self, once there are zeros around its rows."""
    lags = _CONFIG.max_lag
    stride = -(-(image.shape[1] + lags) // LANES) * LANES
    start = 2 * lags * stride
    flat = np.zeros(start + (image.shape[0] + 2 * lags) * stride + LANES, np.float32)
    skip = (-flat.ctypes.data // flat.itemsize) % LANES
    flat = flat[skip : flat.size - LANES + skip]
    length = image.shape[0] * stride
    flat[start : start + length].reshape(-1, stride)[:, : image.shape[1]] = image
    return lambda: multiply_shifted(flat, flat, (start, length, stride), lags)


def _measure(one: NDArray[np.float32], two: NDArray[np.float32]) -> list[PointMeasurement]:
    everywhere = np.ones(one.shape, np.bool_)
    return measure_points(
        one, two, usable_first=everywhere, usable_second=everywhere, read_noise=5.0, config=_CONFIG
    )


def _measure_files(paths: tuple[Path, Path]) -> int:
    """Measure a pair of files: the work of a measuring process."""
    points = 0
    for one, two in read_amplifier_pair(*paths):
        points += len(
            measure_points(
                one.pixels,
                two.pixels,
                usable_first=one.usable,
                usable_second=two.usable,
                read_noise=one.read_noise,
                config=_CONFIG,
            )
        )
    return points


def _from_files(kind: str, files: list[Path], measuring: float, *, repeats: int) -> Iterator[Figure]:
    pair = (files[0], files[1])
    readers = {"astropy": partial(_read_astropy, pair)}
    fitsio = _fitsio()
    if fitsio is not None:
        readers["fitsio"] = partial(_read_fitsio, fitsio, pair)
    times = {name: cpu_seconds(read, repeats=3) for name, read in readers.items()}
    best = min(times, key=lambda name: times[name])
    said = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items())
    reading = cpu_seconds(partial(_read_ours, pair), repeats=repeats)
    yield Figure(
        name=f"{kind} pair of files, decoded",
        value=reading,
        unit="s",
        reference=times[best],
        reference_is=f"{best}, the best other reader here ({said})",
    )
    total = cpu_seconds(lambda: _measure_files(pair), repeats=repeats)
    compressed = kind != "plain"
    yield Figure(
        name=f"{kind} pair of files, measured",
        value=total,
        unit="s",
        reference=times[best],
        reference_is=f"{best} decoding both files and doing no more",
        limit=reading + measuring,
        limit_is="decoding and measuring as above, nothing for overscan and masks",
        target="<= 1.6x the time to decode" if compressed else "",
        met=total <= 1.6 * times[best] if compressed else None,
    )


def _read_astropy(pair: tuple[Path, Path]) -> None:
    for path in pair:
        with fits.open(path, memmap=False) as hdus:
            for index in range(1, _AMPLIFIERS + 1):
                np.sum(hdus[index].data[0])


def _read_fitsio(fitsio: ModuleType, pair: tuple[Path, Path]) -> None:
    for path in pair:
        with fitsio.FITS(str(path)) as hdus:
            for index in range(1, _AMPLIFIERS + 1):
                hdus[index].read()


def _read_ours(pair: tuple[Path, Path]) -> None:
    for path in pair:
        with FitsFile(path) as file:
            for index in range(1, _AMPLIFIERS + 1):
                file.pixels(index)


def _fitsio() -> ModuleType | None:
    """Fitsio (GPL) is no dependency; where it is installed, it is compared with."""
    try:
        return importlib.import_module("fitsio")
    except ImportError:
        return None


def _workers(files: list[Path]) -> Iterator[Figure]:
    one, first_peak, last_peak = asyncio.run(_through_workers(files, 1))
    two, *_ = asyncio.run(_through_workers(files, 2))
    yield Figure(
        name="pairs per second, two workers",
        value=two,
        unit="1/s",
        reference=one,
        reference_is="one worker",
        limit=2 * one,
        limit_is="two cores",
        target=">= 1.8x one worker",
        met=two >= 1.8 * one,
        note="wall time: as good as the machine is idle",
    )
    yield Figure(
        name=f"memory of a worker after {_JOBS + 1} pairs",
        value=last_peak / 1e6,
        unit="MB",
        reference=first_peak / 1e6,
        reference_is="after the first",
        target="flat in the number of pairs",
        met=last_peak <= 1.1 * first_peak,
    )


async def _through_workers(files: list[Path], workers: int) -> tuple[float, int, int]:
    """Pairs per second of wall time, and the largest memory of a worker after one pair and after all."""
    offload = ProcessOffload(workers, deadline_s=_DEADLINE_S, initializer=warm_up)
    job = (files[0], files[1])
    try:
        await asyncio.gather(*(offload.run(_measure_files, job) for _ in range(workers)))
        first = offload.peak_memory_bytes
        start = time.perf_counter()
        await asyncio.gather(*(offload.run(_measure_files, job) for _ in range(workers * _JOBS)))
        return workers * _JOBS / (time.perf_counter() - start), first, offload.peak_memory_bytes
    finally:
        await offload.close()
