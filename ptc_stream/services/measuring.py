"""Wiring of the measuring stage: flat pairs in, covariances out; and the job that a worker runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from ptc_stream.config import Settings, canonical_json, digest, plain
from ptc_stream.core.measuring import MeasurePair, PairMeasurer, amplifier_covariances, pair_covariances
from ptc_stream.errors import ConfigurationError, GeometryError, ImageChanged
from ptc_stream.images.camera import CameraDescription, load_camera
from ptc_stream.images.header_map import HeaderMap
from ptc_stream.images.headers import TAG_PREFIX, content_tag
from ptc_stream.images.reduction import (
    AmplifierFrame,
    Calibration,
    ReductionConfig,
    calibration_tags,
    read_amplifier_pair,
)
from ptc_stream.offload import Offload
from ptc_stream.physics.measuring import measure_points
from ptc_stream.physics.points import MeasuringConfig, PointFlag
from ptc_stream.records import AmplifierCovariances, ExposureReference, FlatPair, PairCovariances
from ptc_stream.services.runner import OnChange, Stage

__all__ = ["MeasuringSettings", "measure", "measuring_stage", "stage_measuring_by", "warm_up"]

# Masking saturated pixels cuts the upper wing of the distribution. At 2 % the variance is 10 % low; hot
# pixels and some columns of 512 stay below it, and less than that the turnoff (2 % of variance) sees.
_SATURATED_FRACTION = 0.02

_FILES = ("mask", "bias", "dark", "linearity", "crosstalk")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuringSettings:
    """Everything that a measurement depends on, ready to travel to a worker.

    Attributes
    ----------
    measuring, reduction, camera, headers
        What is done with which pixels.
    tags
        (role, hash) of every calibration file.
    config
        All of the above as canonical JSON, with hashes instead of file names: the identity of a measurement
        does not change when a file moves.
    uri_map
        (old, new) beginnings of URIs: where images have moved since they were announced. No part of the
        identity.
    """

    measuring: MeasuringConfig
    reduction: ReductionConfig
    camera: CameraDescription | None
    headers: HeaderMap
    tags: tuple[tuple[str, str], ...]
    config: str
    uri_map: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        """Hash of `config`, as it stands in pair ids and records."""
        return digest(self.config)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, camera: str | None = None, uri_map: Sequence[tuple[str, str]] = ()
    ) -> Self:
        """Read the camera description and hash the calibration files.

        Raises
        ------
        ConfigurationError
            A file that cannot be read, or is not what it should be.
        """
        description = load_camera(camera) if camera else None
        tags = calibration_tags(settings.reduction)
        reduction: dict[str, Any] = plain(settings.reduction)
        for name in _FILES:
            del reduction[name]
        identity = {
            "measuring": settings.measuring,
            "reduction": reduction,
            "calibration": [list(tag) for tag in tags],
            "camera": description,
        }
        return cls(
            measuring=settings.measuring,
            reduction=settings.reduction,
            camera=description,
            headers=settings.headers,
            tags=tags,
            config=canonical_json(identity),
            uri_map=tuple(uri_map),
        )


def measuring_stage(settings: MeasuringSettings, *, offload: Offload) -> Stage:
    """Make the stage that reads pixels."""
    return stage_measuring_by(partial(measure, settings), config=settings.config, offload=offload)


def stage_measuring_by(
    function: Callable[[MeasurePair], PairCovariances], *, config: str, offload: Offload
) -> Stage:
    """Make the measuring stage around whatever gives the covariances of a pair: pixels, or a recording."""
    return Stage(
        name="measuring",
        input_type=FlatPair,
        make_core=lambda _group: PairMeasurer(),
        config=config,
        on_change=OnChange.REFUSE,
        offload=offload,
        functions={MeasurePair: function},
    )


def measure(settings: MeasuringSettings, job: MeasurePair) -> PairCovariances:
    """Read both exposures of a pair and measure every amplifier: the job of a worker.

    One amplifier is in memory at a time. One that cannot be measured comes back flagged.

    Raises
    ------
    ImageMissing, ImageChanged, ImageUnreadable, GeometryError, StorageUnavailable
        One of the exposures cannot be used (now).
    ConfigurationError
        A calibration file has changed since the settings were made, or does not fit the frames.
    """
    calibration = _calibration(settings)
    paths = [_announced(reference, settings.uri_map) for reference in (job.pair.first, job.pair.second)]
    amplifiers = [
        _measure_amplifier(first, second, settings.measuring)
        for first, second in read_amplifier_pair(*paths, calibration=calibration)
    ]
    return pair_covariances(job.pair, amplifiers, measuring_digest=settings.digest)


def warm_up() -> None:
    """Load the compiled kernels: run in a worker before its first job, which then takes its true time."""
    ramp = np.add.outer(np.arange(64.0), 10.0 * (np.arange(64.0) % 7)).astype(np.float32)
    everywhere = np.ones(ramp.shape, dtype=np.bool_)
    measure_points(
        ramp,
        ramp[::-1].copy(),
        usable_first=everywhere,
        usable_second=everywhere,
        read_noise=None,
        config=MeasuringConfig(edge=0),
    )


def _measure_amplifier(
    first: AmplifierFrame, second: AmplifierFrame, config: MeasuringConfig
) -> AmplifierCovariances:
    if first.pixels.shape != second.pixels.shape:
        raise GeometryError(
            f"amplifier {first.name} has {first.pixels.shape} pixels in one exposure "
            f"and {second.pixels.shape} in the other"
        )
    noises = [frame.read_noise for frame in (first, second) if frame.read_noise is not None]
    points = measure_points(
        first.pixels,
        second.pixels,
        usable_first=first.usable,
        usable_second=second.usable,
        read_noise=sum(noises) / len(noises) if noises else None,
        config=config,
    )
    if max(first.saturated_fraction, second.saturated_fraction) > _SATURATED_FRACTION:
        points = [dataclasses.replace(point, flags=(*point.flags, PointFlag.SATURATED)) for point in points]
    return amplifier_covariances(
        first.name,
        points,
        read_noises=[(frame.read_noise, frame.read_noise_error) for frame in (first, second)],
        overscan_levels=[first.overscan_level, second.overscan_level],
        zero_level=first.zero_level and second.zero_level,
        flags=["NO_USABLE_PIXELS"] if first.problem or second.problem else [],
    )


def _announced(reference: ExposureReference, uri_map: Sequence[tuple[str, str]]) -> Path:
    """Return the path of an exposure that is still the one that was announced."""
    path = _path(reference.uri, uri_map)
    # An ETag or another facility's tag cannot be compared; ours can.
    if reference.content_tag.startswith(TAG_PREFIX) and content_tag(path) != reference.content_tag:
        raise ImageChanged(f"{path} has been replaced since exposure {reference.exposure} was announced")
    return path


def _path(uri: str, uri_map: Sequence[tuple[str, str]]) -> Path:
    for old, new in uri_map:
        if uri.startswith(old):
            uri = new + uri[len(old) :]
            break
    return Path(uri.removeprefix("file://"))


_calibrations: dict[tuple[str, str], Calibration] = {}


def _calibration(settings: MeasuringSettings) -> Calibration:
    """Make the calibration once per worker: reading bias frames for every pair would double the work."""
    key = (settings.config, canonical_json(settings.reduction))
    if key not in _calibrations:
        made = Calibration(settings.reduction, camera=settings.camera, header_map=settings.headers)
        if made.content_tags != settings.tags:
            raise ConfigurationError(
                "a calibration file has changed since this run was started: start it again, into a new store"
            )
        _calibrations.clear()
        _calibrations[key] = made
    return _calibrations[key]
