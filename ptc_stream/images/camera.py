"""Camera descriptions: TOML files that say what headers do not.

A description is needed where a frame has several amplifiers and no sections in its headers, or where its
headers have unusual keywords. The shipped ``cameras/msfc_ccd.toml`` is the worked example::

    name = "..."                    # required; for messages
    instrument = "..."              # where headers do not name it
    detector = "..."
    shape = [2152, 1040]            # columns, rows of every frame, as in NAXIS1, NAXIS2
    saturation = 60000              # raw ADU
    offset_removed = false          # true: the frames have been bias-subtracted elsewhere

    [headers]                       # as the option --map
    exposure_time = "ITIME*0.001"
    image_types = { "Light Frame" = "flat" }

    [overscan]
    method = "row"                  # row | level | none; see the option reduction.overscan_method

    [readout]                       # what all amplifiers share, in the order of read-out:
    data = "[51:1074,9:520]"        # [1:1] is the pixel that comes first, whatever its corner
    overscan = "[26:50,1:520]"
    parallel_overscan = "[51:1074,521:540]"

    [[amplifier]]
    name = "LL"
    hdu = 1                         # number or EXTNAME; without it, the first image of the file
    section = "[1:1076,1:520]"      # all of its pixels in the frame, as stored
    readout = "lower left"          # corner of the section that is read first; row 1 is the lowest
    saturation = 60000              # and data, overscan, parallel_overscan, where it differs from [readout]

Without any ``[[amplifier]]`` the sections are those of the headers.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptc_stream.errors import ConfigurationError, GeometryError
from ptc_stream.images.header_map import HeaderMap
from ptc_stream.images.sections import Box, parse_section

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping

__all__ = ["AmplifierDescription", "CameraDescription", "load_camera", "shipped_cameras"]

OVERSCAN_METHODS = ("row", "level", "none")

# Corner that is read first: (flip x, flip y) that bring it to pixel (0, 0).
_CORNERS = {
    "lower left": (False, False),
    "lower right": (True, False),
    "upper left": (False, True),
    "upper right": (True, True),
}
_BOXES = ("data", "overscan", "parallel_overscan")
_TOP_KEYS = (
    "name",
    "instrument",
    "detector",
    "shape",
    "saturation",
    "offset_removed",
    "headers",
    "overscan",
    "readout",
    "amplifier",
)
_AMPLIFIER_KEYS = ("name", "hdu", "section", "readout", "saturation", *_BOXES)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AmplifierDescription:
    """One amplifier of a described camera.

    Attributes
    ----------
    name
        Its name.
    hdu
        Number or EXTNAME of the HDU that holds it; None: the first image of the file.
    section
        All of its pixels within the HDU as stored.
    flip_x, flip_y
        What brings the pixel that is read first to (0, 0).
    data, serial_overscan, parallel_overscan
        Boxes within the flipped section.
    saturation
        [raw ADU]
    """

    name: str
    hdu: int | str | None
    section: Box
    flip_x: bool
    flip_y: bool
    data: Box
    serial_overscan: Box | None
    parallel_overscan: Box | None
    saturation: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CameraDescription:
    """What headers do not say about a camera.

    Attributes
    ----------
    name
        For messages.
    instrument, detector
        Names where headers have none.
    headers
        Header keywords of this camera.
    shape
        (rows, columns) that every described HDU must have, if given.
    saturation
        [raw ADU]
    overscan_method
        ``row``, ``level`` or ``none``; None leaves the choice to the settings.
    offset_removed
        The zero of these frames is true already: they were reduced elsewhere.
    amplifiers
        Empty: the sections are those of the headers.
    """

    name: str
    instrument: str | None = None
    detector: str | None = None
    headers: HeaderMap = dataclasses.field(default_factory=HeaderMap)
    shape: tuple[int, int] | None = None
    saturation: float | None = None
    overscan_method: str | None = None
    offset_removed: bool = False
    amplifiers: tuple[AmplifierDescription, ...] = ()


def shipped_cameras() -> list[str]:
    """Return the names of the descriptions that come with ptc_stream."""
    directory = resources.files("ptc_stream.images") / "cameras"
    return sorted(e.name.removesuffix(".toml") for e in directory.iterdir() if e.name.endswith(".toml"))


def load_camera(camera: str | os.PathLike[str]) -> CameraDescription:
    """Read a camera description.

    Parameters
    ----------
    camera
        Path of a TOML file, or the name of a shipped description such as ``msfc_ccd``.

    Returns
    -------
    CameraDescription

    Raises
    ------
    ConfigurationError
        In one line: where, what is wrong, what would be right.
    """
    path = Path(camera)
    shipped = shipped_cameras()
    if str(camera) in shipped:
        text = (resources.files("ptc_stream.images") / "cameras" / f"{camera}.toml").read_text()
    else:
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigurationError(
                f"no camera description {camera} ({error.strerror}); "
                f"give a TOML file or one of: {', '.join(shipped)}"
            ) from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{camera} is not a TOML file: {error}") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{camera} is not TOML: {error}") from error
    return _Parser(str(camera)).camera(table)


class _Parser:
    """Checks a description key by key; every message begins with the file and the place in it."""

    def __init__(self, file: str) -> None:
        self._file = file

    def camera(self, table: Mapping[str, Any]) -> CameraDescription:
        self._known(table, _TOP_KEYS, "")
        overscan = self._table(table, "overscan")
        self._known(overscan, ("method",), "[overscan] ")
        method = self._text(overscan, "method", "[overscan] ")
        if method is not None and method not in OVERSCAN_METHODS:
            raise self._error(f"[overscan] method = {method!r}; one of {', '.join(OVERSCAN_METHODS)}")
        readout = self._table(table, "readout")
        self._known(readout, _BOXES, "[readout] ")
        for key in _BOXES:
            self._box(readout, key, "[readout] ")
        shape = self._shape(table)
        entries = table.get("amplifier", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self._error("amplifiers are tables: write [[amplifier]] above each")
        if readout and not entries:
            raise self._error("[readout] has no effect without [[amplifier]]")
        amplifiers = tuple(self._amplifier(entry, readout, shape) for entry in entries)
        self._check_together(amplifiers)
        name = self._text(table, "name")
        if name is None:
            raise self._error('name is missing; write name = "..."')
        return CameraDescription(
            name=name,
            instrument=self._text(table, "instrument"),
            detector=self._text(table, "detector"),
            headers=self._headers(self._table(table, "headers")),
            shape=shape,
            saturation=self._level(table, ""),
            overscan_method=method,
            offset_removed=self._flag(table, "offset_removed"),
            amplifiers=amplifiers,
        )

    def _error(self, message: str) -> ConfigurationError:
        return ConfigurationError(f"{self._file}: {message}")

    def _known(self, table: Mapping[str, Any], known: Collection[str], where: str) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                raise self._error(f"{where}unknown key {key}; {hint}")

    def _table(self, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = table.get(key, {})
        if not isinstance(value, dict):
            raise self._error(f"{key} is a table: write [{key}]")
        return value

    def _text(self, table: Mapping[str, Any], key: str, where: str = "") -> str | None:
        value = table.get(key)
        if value is None or (isinstance(value, str) and value.strip()):
            return value
        raise self._error(f"{where}{key} = {value!r}: text expected")

    def _flag(self, table: Mapping[str, Any], key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise self._error(f"{key} = {value!r}: true or false expected")
        return value

    def _level(self, table: Mapping[str, Any], where: str) -> float | None:
        value = table.get("saturation")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 2.0**32:
            raise self._error(f"{where}saturation = {value!r}: a positive level in raw ADU expected")
        return float(value)

    def _shape(self, table: Mapping[str, Any]) -> tuple[int, int] | None:
        value = table.get("shape")
        if value is None:
            return None
        if (
            not isinstance(value, list)
            or len(value) != 2
            or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value)
        ):
            raise self._error(f"shape = {value!r}: [columns, rows] expected, as in NAXIS1, NAXIS2")
        return value[1], value[0]

    def _headers(self, table: Mapping[str, Any]) -> HeaderMap:
        self._known(table, [field.name for field in dataclasses.fields(HeaderMap)], "[headers] ")
        fields = dict(table)
        types = fields.pop("image_types", {})
        if not isinstance(types, dict) or not all(isinstance(value, str) for value in types.values()):
            raise self._error("[headers] image_types: a table of text expected, { 'Light Frame' = 'flat' }")
        for key in fields:
            self._text(fields, key, "[headers] ")
        try:
            return HeaderMap(**fields, image_types=types)
        except ConfigurationError as error:
            raise self._error(f"[headers] {error}") from error

    def _box(self, table: Mapping[str, Any], key: str, where: str) -> Box | None:
        text = self._text(table, key, where)
        if text is None:
            return None
        try:
            section = parse_section(text)
        except GeometryError as error:
            raise self._error(f"{where}{key}: {error}") from error
        if section.descending_x or section.descending_y:
            raise self._error(f"{where}{key} = {text!r}: write it from low to high; `readout` tells the flip")
        return section.box

    def _amplifier(
        self, table: Mapping[str, Any], readout: Mapping[str, Any], shape: tuple[int, int] | None
    ) -> AmplifierDescription:
        name = self._text(table, "name", "[[amplifier]] ")
        if name is None:
            raise self._error("[[amplifier]] without a name")
        where = f"amplifier {name}: "
        self._known(table, _AMPLIFIER_KEYS, where)
        hdu = table.get("hdu")
        if hdu is not None and (isinstance(hdu, bool) or not isinstance(hdu, int | str)):
            raise self._error(f"{where}hdu = {hdu!r}: a number or an EXTNAME expected")
        section = self._box(table, "section", where)
        if section is None:
            raise self._error(f'{where}section is missing; write section = "[1:1024,1:512]"')
        if shape is not None and not Box(0, shape[1], 0, shape[0]).contains(section):
            raise self._error(f"{where}section {section} leaves the frame of shape {[shape[1], shape[0]]}")
        corner = self._text(table, "readout", where) or "lower left"
        if corner not in _CORNERS:
            raise self._error(f"{where}readout = {corner!r}; one of {', '.join(_CORNERS)}")
        flip_x, flip_y = _CORNERS[corner]
        whole = Box(0, section.width, 0, section.height)
        boxes = {
            key: self._box(table if key in table else readout, key, where if key in table else "[readout] ")
            for key in _BOXES
        }
        for key, box in boxes.items():
            if box is not None and not whole.contains(box):
                raise self._error(f"{where}{key} {box} leaves its section of {whole.width}x{whole.height}")
        data = boxes["data"] or whole
        for key in ("overscan", "parallel_overscan"):
            box = boxes[key]
            if box is not None and box.intersection(data):
                raise self._error(f"{where}{key} {box} overlaps data {data}")
        return AmplifierDescription(
            name=name,
            hdu=hdu,
            section=section,
            flip_x=flip_x,
            flip_y=flip_y,
            data=data,
            serial_overscan=boxes["overscan"],
            parallel_overscan=boxes["parallel_overscan"],
            saturation=self._level(table, where),
        )

    def _check_together(self, amplifiers: tuple[AmplifierDescription, ...]) -> None:
        for number, one in enumerate(amplifiers):
            for other in amplifiers[:number]:
                if one.name == other.name:
                    raise self._error(f"two amplifiers are named {one.name}")
                if one.hdu == other.hdu and one.section.intersection(other.section):
                    raise self._error(f"the sections of amplifiers {other.name} and {one.name} overlap")
