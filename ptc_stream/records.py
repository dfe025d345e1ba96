"""Every message that crosses a topic, one frozen dataclass each, in the order they flow.

::

    ExposureArrived ─▶ FlatPair ─▶ PairCovariances ─▶ PtcFit ─▶ Alert
            └───────────── Rejected (from any stage) ─────────────┘

Unit and meaning of every field stand in ``schemas/*.avsc``; a test holds the two together.
Nothing here knows the wall clock, a host or a random number: a record's value is a function of
what it describes, so the same inputs give the same bytes.

Groups
------
A *group* is (instrument, run, detector). All state of all stages belongs to a group, and the
partition of a record depends on instrument and detector only, so that both flats of a pair meet.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import ClassVar, NamedTuple, TypeAlias

__all__ = [
    "Alert",
    "AmplifierCovariances",
    "AmplifierFitResult",
    "CountMatrix",
    "CovariancePoint",
    "ExposureArrived",
    "ExposureReference",
    "FlatPair",
    "GroupKey",
    "LinearityResult",
    "Matrix",
    "PairCovariances",
    "Position",
    "PtcFit",
    "Record",
    "Rejected",
    "UnusedPoints",
    "content_hash",
    "join_key",
    "split_key",
]

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
CountMatrix: TypeAlias = tuple[tuple[int, ...], ...]


def join_key(*parts: str) -> str:
    """Join `parts` into one key, ``a|b|c``; a bar or a percent sign inside a part is escaped."""
    return "|".join(part.replace("%", "%25").replace("|", "%7C") for part in parts)


def split_key(key: str) -> tuple[str, ...]:
    """Undo `join_key`."""
    return tuple(part.replace("%7C", "|").replace("%25", "%") for part in key.split("|"))


def content_hash(*parts: str) -> str:
    """Identity by content: 32 hexadecimal digits of the SHA-256 of `parts`, each length-prefixed."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:32]


class GroupKey(NamedTuple):
    """What all state belongs to."""

    instrument: str
    run: str
    detector: str

    def __str__(self) -> str:
        return join_key(*self)


class _Keyed:
    """What the records with a group have in common."""

    __slots__ = ()

    instrument: str
    run: str
    detector: str

    @property
    def group(self) -> GroupKey:
        """The group that this record belongs to."""
        return GroupKey(self.instrument, self.run, self.detector)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExposureArrived(_Keyed):
    """One exposure of one detector, of any image type, is there to be read."""

    topic: ClassVar[str] = "exposures"

    instrument: str
    run: str
    detector: str
    exposure: str
    image_type: str
    exposure_time: float | None = None
    filter: str = ""
    lamp: str = ""
    lamp_dose: float | None = None
    pair_hint: str | None = None
    sequence_number: int | None = None
    observation_mjd: float | None = None
    uri: str
    content_tag: str

    @property
    def key(self) -> str:
        """Key in the topic."""
        return join_key(*self.group, self.exposure)

    @property
    def reference(self) -> ExposureReference:
        """What a pair keeps of this exposure."""
        return ExposureReference(
            exposure=self.exposure,
            uri=self.uri,
            content_tag=self.content_tag,
            exposure_time=self.exposure_time,
            sequence_number=self.sequence_number,
            observation_mjd=self.observation_mjd,
            lamp_dose=self.lamp_dose,
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExposureReference:
    """One of the two exposures of a pair: which, and where its pixels are."""

    exposure: str
    uri: str
    content_tag: str
    exposure_time: float | None = None
    sequence_number: int | None = None
    observation_mjd: float | None = None
    lamp_dose: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlatPair(_Keyed):
    """Two flats of one group and setting, to be measured together."""

    topic: ClassVar[str] = "pairs"

    instrument: str
    run: str
    detector: str
    pair_id: str
    first: ExposureReference
    second: ExposureReference
    filter: str = ""
    lamp: str = ""
    supersedes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Key in the topic."""
        return join_key(*self.group, self.pair_id)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CovariancePoint:
    """One point of the curve: what one pair (or one group of its tiles) says about one amplifier."""

    mean: float
    mean_first: float
    mean_second: float
    variance: float
    covariances: Matrix
    pixel_count: CountMatrix
    pixels_used: int
    row_mean_variance: float
    gaussianity: float
    gain_estimate: float
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AmplifierCovariances:
    """All points that one pair gives for one amplifier."""

    name: str
    points: tuple[CovariancePoint, ...]
    read_noise: float | None = None
    read_noise_error: float | None = None
    overscan_level: float | None = None
    zero_level: bool = True
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairCovariances(_Keyed):
    """What one flat pair measures, for every amplifier of the detector."""

    topic: ClassVar[str] = "covariances"

    instrument: str
    run: str
    detector: str
    pair_id: str
    first: ExposureReference
    second: ExposureReference
    filter: str = ""
    lamp: str = ""
    supersedes: tuple[str, ...] = ()
    measuring_digest: str
    amplifiers: tuple[AmplifierCovariances, ...]

    @property
    def key(self) -> str:
        """Key in the topic."""
        return join_key(*self.group, self.pair_id)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnusedPoints:
    """Points of one amplifier that the fit left out for one reason.

    ``ranges`` holds half-open index ranges, flattened (start, stop, start, stop, ...), into the points
    of the amplifier sorted by mean signal (ties by pair id, then by order within the pair; points
    without a finite mean come last). What lies above turnoff is then one range whatever its length.
    """

    reason: str
    count: int
    pairs: int
    ranges: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearityResult:
    """Mean signal against exposure time or lamp dose."""

    against: str
    slope: float
    offset: float
    max_deviation: float
    max_deviation_mean: float
    turnoff: float
    turnoff_is_lower_limit: bool
    points_used: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AmplifierFitResult:
    """The curve of one amplifier as far as it is known."""

    name: str
    status: str
    notes: tuple[str, ...] = ()
    gain: float
    gain_error: float
    read_noise: float
    read_noise_error: float
    overscan_read_noise: float | None = None
    a00: float
    a00_error: float
    turnoff: float
    turnoff_error: float
    turnoff_is_lower_limit: bool
    turnoff_last_used: float
    chi2_per_dof: float
    dof: int
    floor: float
    parameters: tuple[float, ...] = ()
    points_used: int
    pairs_used: int
    unused: tuple[UnusedPoints, ...] = ()
    a_matrix: Matrix | None = None
    a_matrix_error: Matrix | None = None
    b_matrix: Matrix | None = None
    b_matrix_error: Matrix | None = None
    noise_matrix: Matrix | None = None
    noise_matrix_error: Matrix | None = None
    linearity: LinearityResult | None = None
    lamp_drift: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PtcFit(_Keyed):
    """The Photon Transfer Curve of one detector, fitted to all pairs so far."""

    topic: ClassVar[str] = "fits"

    instrument: str
    run: str
    detector: str
    model: str
    fit_id: str
    last_pair_id: str
    pairs: int
    measuring_digest: str
    fitting_digest: str
    history_incomplete: bool = False
    amplifiers: tuple[AmplifierFitResult, ...]

    @property
    def key(self) -> str:
        """Key in the topic."""
        return join_key(*self.group, self.model)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alert(_Keyed):
    """A rule was broken (``raise``) or is kept again (``clear``)."""

    topic: ClassVar[str] = "alerts"

    instrument: str
    run: str
    detector: str
    amplifier: str
    rule: str
    model: str
    action: str
    value: float | None = None
    error: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    evidence: str
    message: str
    alert_id: str

    @property
    def key(self) -> str:
        """Key in the topic; the model is part of it, so that two models never clear each other's alerts."""
        return join_key(*self.group, self.amplifier, self.rule, self.model)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Something that could not be used, unmodified, and why."""

    topic: ClassVar[str] = "rejected"

    stage: str
    reason: str
    message: str
    source_topic: str
    source_key: str
    original: bytes

    @property
    def key(self) -> str:
        """Key in the topic: that of the original."""
        return self.source_key


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a stage has come in one partition, or where one of its groups begins.

    With key ``next``: `offset` is the next record to read, `config` the settings of the stage as
    canonical JSON. With a group as key: `offset` is the first record of that group.
    """

    topic: ClassVar[str] = "positions"

    offset: int
    config: str | None = None


Record: TypeAlias = ExposureArrived | FlatPair | PairCovariances | PtcFit | Alert | Rejected | Position
