"""Calibration frames and tables that the configuration names; never "the latest bias of the stream"."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptc_stream.errors import ConfigurationError, ImageError
from ptc_stream.images.corrections import MaskFile, load_crosstalk, load_linearity
from ptc_stream.images.geometry import check_equal, frame_geometry
from ptc_stream.images.headers import HeaderMap, read_exposure_header
from ptc_stream.images.raw import ReductionConfig, read_raw_amplifier
from ptc_stream.images.reading import FitsFile
from ptc_stream.physics.clipping import clip_factor, clipped_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ptc_stream.images.camera import CameraDescription
    from ptc_stream.images.geometry import FrameGeometry
    from ptc_stream.images.headers import ExposureHeader

__all__ = ["Calibration", "DetectorCalibration", "calibration_tags"]

# Master frames kept in one worker [bytes]: six LSST detectors with bias. A worker must stay below 1 GB;
# those of another detector are made again from their files.
_MAX_KEPT = 400 << 20

_N_SIGMA = 5.5
_PASSES = 3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DetectorCalibration:
    """Mask, and master frames by amplifier, of one detector; empty where the configuration names no files.

    Attributes
    ----------
    bias
        Mean bias above the overscan, or the zero itself where there is none, ``[y, x]`` float32 [ADU].
    read_noise
        Read noise from differences of bias frames, and its error [ADU].
    dark_rate
        Mean dark signal, ``[y, x]`` float32 [ADU/s].
    mask
        Bad pixels; None without a mask file.
    """

    bias: Mapping[str, NDArray[np.float32]]
    read_noise: Mapping[str, tuple[float, float]]
    dark_rate: Mapping[str, NDArray[np.float32]]
    mask: MaskFile | None

    @property
    def nbytes(self) -> int:
        """Memory that all of it takes."""
        frames = [frame for frames in (self.bias, self.dark_rate) for frame in frames.values()]
        return sum(frame.nbytes for frame in frames) + (self.mask.nbytes if self.mask else 0)


def calibration_tags(config: ReductionConfig) -> tuple[tuple[str, str], ...]:
    """Return (role, hash of the whole file) of every file that a configuration names, in its order.

    They belong to the digest of the measuring settings: another bias frame under the same name is another
    measurement. Whole files, because a mask may be edited without any change of header or size.

    Raises
    ------
    ConfigurationError
        If a file cannot be read.
    """
    tags: list[tuple[str, str]] = []
    for role, paths in _files(config):
        for path in paths:
            try:
                with Path(path).open("rb") as file:
                    tags.append((role, hashlib.file_digest(file, "sha256").hexdigest()[:32]))
            except OSError as error:
                raise ConfigurationError(f"{role} {path}: {error.strerror}") from error
    return tuple(tags)


def _files(config: ReductionConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "mask", config.mask
    yield "bias", config.bias
    yield "dark", config.dark
    yield "linearity", () if config.linearity is None else (config.linearity,)
    yield "crosstalk", () if config.crosstalk is None else (config.crosstalk,)


class Calibration:
    """All that a worker needs to reduce frames; made once per worker, not for use by several threads.

    Parameters
    ----------
    config
        Settings and file names.
    camera, header_map
        As for the exposures: calibration frames have the same headers.

    Raises
    ------
    ConfigurationError
        If a file that the settings name is not what it should be.
    """

    def __init__(
        self,
        config: ReductionConfig | None = None,
        *,
        camera: CameraDescription | None = None,
        header_map: HeaderMap | None = None,
    ) -> None:
        self.config = config or ReductionConfig()
        self.camera = camera
        self.header_map = header_map
        self.content_tags = calibration_tags(self.config)
        self.linearity = load_linearity(self.config.linearity) if self.config.linearity else None
        self.crosstalk = load_crosstalk(self.config.crosstalk) if self.config.crosstalk else None
        several = len(self.config.mask) > 1
        self._masks = self._by_detector("mask", self.config.mask if several else ())
        self._mask_of_all = MaskFile(self.config.mask[0]) if len(self.config.mask) == 1 else None
        self._bias = self._by_detector("bias", self.config.bias)
        self._dark = self._by_detector("dark", self.config.dark)
        self._detectors: OrderedDict[str, DetectorCalibration] = OrderedDict()

    def detector(self, detector: str) -> DetectorCalibration:
        """Return mask and master frames of a detector, made on first use.

        Raises
        ------
        ConfigurationError
            If frames are configured but none is of this detector, or they do not fit each other.
        """
        if detector in self._detectors:
            self._detectors.move_to_end(detector)
            return self._detectors[detector]
        made = self._make(detector)
        self._detectors[detector] = made
        while len(self._detectors) > 1 and sum(d.nbytes for d in self._detectors.values()) > _MAX_KEPT:
            self._detectors.popitem(last=False)
        return made

    def _by_detector(self, role: str, paths: tuple[str, ...]) -> dict[str, list[tuple[str, ExposureHeader]]]:
        groups: dict[str, list[tuple[str, ExposureHeader]]] = {}
        for path in paths:
            try:
                header = read_exposure_header(path, header_map=self.header_map, camera=self.camera)
            except ImageError as error:
                raise ConfigurationError(f"{role} {error}") from error
            # A type that the user's map gives to every file says nothing of this one.
            said_by_header = not header.decided["image_type"].startswith("=")
            if role == "bias" and header.image_type in {"flat", "object"} and said_by_header:
                raise ConfigurationError(f"bias {path}: its header says {header.image_type}")
            groups.setdefault(header.detector, []).append((path, header))
        return groups

    def _for(
        self, role: str, groups: dict[str, list[tuple[str, ExposureHeader]]], detector: str
    ) -> list[tuple[str, ExposureHeader]]:
        if groups and detector not in groups:
            raise ConfigurationError(
                f"no {role} of detector {detector} among those configured, which are of {', '.join(groups)}"
            )
        return groups.get(detector, [])

    def _make(self, detector: str) -> DetectorCalibration:
        try:
            bias, read_noise = self._master_bias(self._for("bias", self._bias, detector))
            dark_rate = self._dark_rate(self._for("dark", self._dark, detector), bias)
        except ImageError as error:
            raise ConfigurationError(f"calibration of detector {detector}: {error}") from error
        return DetectorCalibration(
            bias=bias, read_noise=read_noise, dark_rate=dark_rate, mask=self._mask(detector)
        )

    def _mask(self, detector: str) -> MaskFile | None:
        paths = [path for path, _ in self._for("mask", self._masks, detector)]
        if len(paths) > 1:
            raise ConfigurationError(f"two masks of detector {detector}: {', '.join(paths)}")
        return MaskFile(paths[0]) if paths else self._mask_of_all

    def _master_bias(
        self, files: list[tuple[str, ExposureHeader]]
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, tuple[float, float]]]:
        """Mean of the frames, and the noise of each pair (1, 2), (3, 4), ... averaged.

        A pixel that is not finite in one frame is NaN in the mean. The difference of two frames has twice the
        variance of one; clipping at 5.5 sigma takes 1e-6 of it (F).
        """
        sums: dict[str, NDArray[np.float64]] = {}
        variances: dict[str, list[tuple[float, int]]] = {}
        reference: tuple[FrameGeometry, str] | None = None
        for start in range(0, len(files), 2):
            frames: list[dict[str, NDArray[np.float32]]] = []
            for path, header in files[start : start + 2]:
                amplifiers, reference = self._read_all(path, header, reference)
                frames.append(amplifiers)
                for name, pixels in amplifiers.items():
                    sums[name] = sums[name] + pixels if name in sums else pixels.astype(np.float64)
            if len(frames) == 2:
                for name, pixels in frames[0].items():
                    statistics = clipped_statistics(pixels - frames[1][name], _N_SIGMA, _PASSES)
                    if statistics.count > 1:
                        variance = clip_factor(_N_SIGMA) * statistics.variance / 2.0
                        variances.setdefault(name, []).append((variance, statistics.count))
        bias = {name: (total / len(files)).astype(np.float32) for name, total in sums.items()}
        read_noise: dict[str, tuple[float, float]] = {}
        for name, pairs in variances.items():
            sigma = float(np.sqrt(np.mean([variance for variance, _ in pairs])))
            count = sum(count for _, count in pairs)
            read_noise[name] = sigma, sigma / float(np.sqrt(2.0 * count))
        return bias, read_noise

    def _dark_rate(
        self, files: list[tuple[str, ExposureHeader]], bias: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, NDArray[np.float32]]:
        sums: dict[str, NDArray[np.float64]] = {}
        reference: tuple[FrameGeometry, str] | None = None
        seconds = 0.0
        for path, header in files:
            if not header.exposure_time:
                raise ConfigurationError(
                    f"dark {path}: no exposure time in its header; see --map exposure_time"
                )
            seconds += header.exposure_time
            amplifiers, reference = self._read_all(path, header, reference)
            for name, pixels in amplifiers.items():
                zero = bias.get(name)
                if zero is not None and zero.shape != pixels.shape:
                    raise ConfigurationError(
                        f"dark {path}: amplifier {name} is not the size of the bias frames"
                    )
                above = pixels if zero is None else pixels - zero
                sums[name] = sums[name] + above if name in sums else above.astype(np.float64)
        return {name: (total / seconds).astype(np.float32) for name, total in sums.items()}

    def _read_all(
        self, path: str, header: ExposureHeader, reference: tuple[FrameGeometry, str] | None
    ) -> tuple[dict[str, NDArray[np.float32]], tuple[FrameGeometry, str]]:
        """Read a frame above its overscan, and hold it to the geometry of the first one."""
        with FitsFile(path) as file:
            geometry = frame_geometry(file, self.camera)
            if reference is None:
                reference = geometry, path
            check_equal(reference[0], geometry, reference[1], path)
            amplifiers = {
                amplifier.name: read_raw_amplifier(
                    file, amplifier, config=self.config, camera=self.camera, exposure=header.exposure
                ).pixels
                for amplifier in geometry.amplifiers
            }
        return amplifiers, reference
