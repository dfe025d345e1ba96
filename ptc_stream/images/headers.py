"""What a primary header says about an exposure, by the rules of the field or by the user's own map.

Every camera names things differently, so each value has a list of usual keywords, and a `HeaderMap` of the
user or of the camera description that goes before them. What decided each value is kept for people to see.
The gain is never taken from a header: header gains are 5 to 12 % wrong, or a setting of the camera.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ptc_stream.errors import GeometryError, ImageUnreadable
from ptc_stream.images.cards import Header, HeaderValue, header_value, parse_header
from ptc_stream.images.header_map import HeaderMap, ParsedSource, number_or, parse_map_options, parse_source
from ptc_stream.images.reading import leading_headers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ptc_stream.images.camera import CameraDescription

__all__ = [
    "TAG_PREFIX",
    "ExposureHeader",
    "HeaderMap",
    "content_tag",
    "normalise_image_type",
    "parse_map_options",
    "read_exposure_header",
    "refuse_colour_filters",
]

_STANDARD_KEYS: Mapping[str, tuple[str, ...]] = {
    "exposure_time": ("EXPTIME", "EXPOSURE"),
    "image_type": ("IMGTYPE", "IMAGETYP", "OBSTYPE", "FRAME"),
    "run": ("RUNNUM", "PROGRAM"),
    "instrument": ("INSTRUME",),
    "exposure": ("OBSID", "EXPID"),
    "detector": ("LSST_NUM", "CCD_SERN", "DETNAME", "CCDNAME", "CCDNUM", "DETECTOR"),
    "sequence_number": ("SEQNUM",),
}
# Every slot of the light path counts: pairs across a neutral-density filter in the second wheel are wrong.
_FILTER_KEYS = ("FILTER", "FILTER1", "FILTER2", "FILTER3", "GRATING")
_LAMP_KEYS = ("LAMP", "CCOBLED")
# Mean current of the monitoring diode times exposure time: proportional to the light of the exposure.
_DOSE_KEYS = ("MONDIODE", "EXPTIME")

# Of what cameras write, after lower-casing, "frame" dropped. Others are passed on as they are.
_IMAGE_TYPES: Mapping[str, str] = {
    "flat field": "flat",
    "flatfield": "flat",
    "flat-field": "flat",
    "dome flat": "flat",
    "domeflat": "flat",
    "dflat": "flat",
    "lamp flat": "flat",
    "flat,lamp": "flat",
    "flat,led": "flat",
    "zero": "bias",
    "offset": "bias",
    "light": "object",
    "science": "object",
    "sky flat": "skyflat",
    "twilight flat": "skyflat",
    "flat,sky": "skyflat",
    "flat,twilight": "skyflat",
}

# Some programs write the key for every camera.
_MONOCHROME = ("NONE", "MONO", "MONOCHROME", "N/A")

_FITS_SUFFIX = re.compile(r"\.(fits|fit|fts)(\.(gz|fz))?$|\.(fz|gz)$", re.IGNORECASE)
_ISO_TIME = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d*)?))?)?Z?")
_OLD_DATE = re.compile(r"(\d{2})/(\d{2})/(\d{2})")  # DD/MM/YY of the first FITS papers: 19YY
_CLOCK = re.compile(r"(\d{1,2}):(\d{2}):(\d{2}(?:\.\d*)?)")
_MJD_EPOCH_ORDINAL = dt.date(1858, 11, 17).toordinal()
_JD_MINUS_MJD = 2_400_000.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExposureHeader:
    """What the header of an exposure says.

    Attributes
    ----------
    instrument, detector, exposure
        Who took it and which it is; ``unknown`` for the first two where nothing tells.
    run
        Name of the run; None where the header has none.
    image_type
        ``flat``, ``bias``, ``dark``, ``object``, ``skyflat``, ``fe55``, ... in lower case;
        ``unknown`` without a key.
    exposure_time
        [s]
    filter, lamp
        Settings of every slot, joined with ``~``; empty where there are none.
    lamp_dose
        Light of the exposure in the camera's own unit.
    sequence_number
        Running number.
    observation_mjd
        Start of the exposure [d], in the time scale of the header.
    content_tag
        See `content_tag`.
    decided
        For each value, the keyword or rule that gave it. For people.
    """

    instrument: str
    run: str | None
    detector: str
    exposure: str
    image_type: str
    exposure_time: float | None
    filter: str
    lamp: str
    lamp_dose: float | None
    sequence_number: int | None
    observation_mjd: float | None
    content_tag: str
    decided: Mapping[str, str]


TAG_PREFIX = "fits:"
"""Beginning of our own content tags, by which they are told from the ETags of an object store."""


def content_tag(path: str | os.PathLike[str]) -> str:
    """Return the hash of a file's primary header and its size.

    Tells a second upload of an exposure from a repeated notice of the first, at the cost of reading a few
    kB; works on plain, gzip, tile-compressed, truncated and foreign files alike.

    Raises
    ------
    ImageMissing, ImageUnreadable, StorageUnavailable
        If the file cannot be opened.
    """
    start = leading_headers(path)
    return _tag(start.primary, start.size)


def _tag(header: bytes, size: int) -> str:
    return TAG_PREFIX + hashlib.sha256(header + b"%d" % size).hexdigest()[:32]


def normalise_image_type(value: str, image_types: Mapping[str, str] | None = None) -> str:
    """Return the image type that a header's word stands for.

    Parameters
    ----------
    value
        ``FLAT``, ``'Dark Frame'``, ``zero``, ...
    image_types
        The user's own words, matched whatever their case.
    """
    word = " ".join(value.lower().split())
    for known, image_type in (image_types or {}).items():
        if " ".join(known.lower().split()) == word:
            return image_type.strip().lower()
    word = word.removesuffix("frame").strip() or word
    return _IMAGE_TYPES.get(word, word)


def read_exposure_header(
    path: str | os.PathLike[str],
    *,
    header_map: HeaderMap | None = None,
    camera: CameraDescription | None = None,
) -> ExposureHeader:
    """Read what the header of an exposure says; pixels are not touched.

    Parameters
    ----------
    path
        FITS file, plain, gzip or tile-compressed. Its pixels may be incomplete.
    header_map
        The user's map; goes before that of the camera, which goes before the usual keywords.
    camera
        Description of the camera, if the user gave one.

    Returns
    -------
    ExposureHeader

    Raises
    ------
    ImageMissing, StorageUnavailable
        If the file cannot be reached.
    ImageUnreadable
        If it is not FITS, or is cut off inside its first header.
    GeometryError
        If the detector has a colour filter array.
    """
    start = leading_headers(path)
    if start.problem:
        raise ImageUnreadable(f"{os.fspath(path)}: {start.problem}")
    headers = [parse_header(block) for block in (start.primary, start.extension) if block]
    refuse_colour_filters(path, headers)
    mapping = header_map or HeaderMap()
    if camera is not None:
        mapping = mapping.over(camera.headers)
    reader = _HeaderReader(headers, mapping)
    return ExposureHeader(
        instrument=reader.text("instrument", fallback=camera.instrument if camera else None) or "unknown",
        run=reader.text("run"),
        detector=reader.detector(fallback=camera.detector if camera else None) or "unknown",
        exposure=reader.text("exposure", fallback=_stem(path), fallback_name="file name") or "unknown",
        image_type=reader.image_type(),
        exposure_time=reader.exposure_time(),
        filter=reader.slots("filter", _FILTER_KEYS),
        lamp=reader.slots("lamp", _LAMP_KEYS),
        lamp_dose=reader.lamp_dose(),
        sequence_number=reader.sequence_number(),
        observation_mjd=reader.observation_mjd(),
        content_tag=_tag(start.primary, start.size),
        decided=reader.decided,
    )


def refuse_colour_filters(path: str | os.PathLike[str], headers: Iterable[Header]) -> None:
    """Raise GeometryError if a header tells of a colour filter array.

    Neighbouring pixels then see different colours: there is no one mean signal, and covariances between
    neighbours mean nothing.
    """
    for header in headers:
        for key in ("BAYERPAT", "COLORTYP"):
            value = header_value(header, key)
            if isinstance(value, str) and value.upper() not in _MONOCHROME:
                raise GeometryError(
                    f"{os.fspath(path)}: {key}={value}: a detector with a colour filter array has no single "
                    "photon transfer curve; extract one colour plane into a file without this key"
                )


def _stem(path: str | os.PathLike[str]) -> str:
    name = Path(path).name
    return _FITS_SUFFIX.sub("", name) or name


class _HeaderReader:
    """Looks values up, first in the map, then by the usual keywords, and keeps what decided."""

    def __init__(self, headers: list[Header], mapping: HeaderMap) -> None:
        self._headers = headers
        self._mapping = mapping
        self.decided: dict[str, str] = {}

    def _card(self, key: str) -> HeaderValue | None:
        for header in self._headers:
            value = header_value(header, key)
            if value is not None:
                return value
        return None

    def _text_card(self, key: str) -> str | None:
        value = self._card(key)
        return None if value is None else str(value)

    def _number_card(self, key: str) -> float | None:
        try:
            number = float(value) if (value := self._card(key)) is not None else math.nan
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def _mapped(self, name: str) -> tuple[str | None, ParsedSource | None]:
        source = getattr(self._mapping, name)
        return source, None if source is None else parse_source(name, source)

    def _mapped_text(self, name: str, joiner: str) -> str | None:
        source, parsed = self._mapped(name)
        if parsed is None:
            return None
        if parsed.constant is not None:
            found: str | None = parsed.constant
        elif len(parsed.factors) > 1:
            number = self._product(parsed.factors)
            found = None if number is None else repr(number)
        else:
            keys = parsed.joined or tuple(str(key) for key in parsed.factors)
            parts = [part for key in keys if (part := self._text_card(key)) is not None]
            found = joiner.join(parts) or None
        self.decided[name] = f"{source}, by the header map" if found else f"{source} is not in the header"
        return found

    def _mapped_number(self, name: str) -> float | None:
        source, parsed = self._mapped(name)
        if parsed is None:
            return None
        if parsed.constant is not None:
            constant = number_or(parsed.constant)
            found = constant if isinstance(constant, float) else None
        else:
            found = self._product(parsed.factors) if parsed.factors else None
        self.decided[name] = (
            f"{source}, by the header map" if found is not None else f"{source} gives no number"
        )
        return found

    def _product(self, factors: Iterable[str | float]) -> float | None:
        product = 1.0
        for factor in factors:
            number = factor if isinstance(factor, float) else self._number_card(factor)
            if number is None:
                return None
            product *= number
        return product

    def _note(self, name: str, rule: str) -> None:
        before = self.decided.get(name)
        self.decided[name] = f"{rule} ({before})" if before else rule

    def _standard_text(self, name: str) -> str | None:
        for key in _STANDARD_KEYS[name]:
            value = self._text_card(key)
            if value is not None:
                self._note(name, key)
                return value
        return None

    def text(self, name: str, *, fallback: str | None = None, fallback_name: str = "camera") -> str | None:
        value = self._mapped_text(name, "_") or self._standard_text(name)
        if value is None:
            value = fallback
            self._note(name, fallback_name if fallback else "no keyword")
        return value

    def detector(self, *, fallback: str | None) -> str | None:
        mapped = self._mapped_text("detector", "_")
        if mapped:
            return mapped
        bay, slot = self._text_card("RAFTBAY"), self._text_card("CCDSLOT")
        if bay and slot:
            self._note("detector", "RAFTBAY+CCDSLOT")
            return f"{bay}_{slot}"
        value = self._standard_text("detector")
        if value is None:
            value = fallback
            self._note("detector", "camera" if fallback else "no keyword")
        return value

    def image_type(self) -> str:
        value = self._mapped_text("image_type", " ")
        if value is None:
            for key in _STANDARD_KEYS["image_type"]:
                card = self._card(key)
                if isinstance(card, str):  # FRAME may be a number, of the frame
                    self._note("image_type", f"{key}={card}")
                    value = card
                    break
        if value is None:
            self._note("image_type", "no keyword")
            return "unknown"
        return normalise_image_type(value, self._mapping.image_types)

    def exposure_time(self) -> float | None:
        found = self._mapped_number("exposure_time")
        if found is None:
            for key in _STANDARD_KEYS["exposure_time"]:
                found = self._number_card(key)
                if found is not None:
                    self._note("exposure_time", key)
                    break
        if found is None or found < 0.0:
            self._note("exposure_time", "no keyword" if found is None else "negative")
            return None
        return found

    def slots(self, name: str, keys: tuple[str, ...]) -> str:
        mapped = self._mapped_text(name, "~")
        if mapped is not None:
            return mapped
        present = [(key, text) for key in keys if (text := self._text_card(key)) is not None]
        self._note(name, "+".join(key for key, _ in present) or "no keyword")
        return "~".join(text for _, text in present)

    def lamp_dose(self) -> float | None:
        found = self._mapped_number("lamp_dose")
        if found is None:
            found = self._product(_DOSE_KEYS)
            self._note("lamp_dose", "no keyword" if found is None else "*".join(_DOSE_KEYS))
        return found or None  # 0: the diode was not read

    def sequence_number(self) -> int | None:
        found = self._mapped_number("sequence_number")
        if found is None:
            key = _STANDARD_KEYS["sequence_number"][0]
            found = self._number_card(key)
            self._note("sequence_number", "no keyword" if found is None else key)
        return None if found is None else int(found)

    def observation_mjd(self) -> float | None:
        mapped = self._mapped_text("observation_time", "T")
        found = None if mapped is None else _mjd(mapped)
        if found is not None:
            return found
        date = self._text_card("DATE-OBS")
        if date and (":" in date) and (found := _mjd(date)) is not None:
            self._note("observation_time", "DATE-OBS")
            return found
        for key in ("MJD-OBS", "MJD"):
            number = self._number_card(key)
            if number is not None and number > 0.0:
                self._note("observation_time", key)
                return number
        for key in ("TIME-OBS", "UTC-OBS", "UT"):
            clock = self._text_card(key)
            if date and clock and _CLOCK.fullmatch(clock) and (found := _mjd(f"{date}T{clock}")) is not None:
                self._note("observation_time", f"DATE-OBS+{key}")
                return found
        found = None if date is None else _mjd(date)
        self._note("observation_time", "no keyword" if found is None else "DATE-OBS, a date only")
        return found


def _mjd(text: str) -> float | None:
    """Return the Modified Julian Date of an ISO time, an old FITS date, or an MJD or JD."""
    number = number_or(text)
    if isinstance(number, float):
        return None if not math.isfinite(number) else number - _JD_MINUS_MJD * (number > _JD_MINUS_MJD)
    if old := _OLD_DATE.match(text):
        day, month, year = old.groups()
        text = f"19{year}-{month}-{day}{text[old.end() :]}"
    match = _ISO_TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = match.groups(default="0")
    try:
        ordinal = dt.date(int(year), int(month), int(day)).toordinal()
    except ValueError:
        return None
    # By hand rather than by datetime, which knows no second 60.
    seconds = 3600 * int(hour) + 60 * int(minute) + float(second)
    return ordinal - _MJD_EPOCH_ORDINAL + seconds / 86_400.0
