"""Which pixels of a file belong to which amplifier, and which of them are overscan.

Three sources, one result. A camera description with amplifiers decides alone. Else each image HDU is one
amplifier, and its header tells:

DATASEC (within TRIMSEC, where there is one)
    the imaging area; the whole image if absent;
BIASSEC
    the overscan, if it is plausible: inside the image, outside the imaging area. ``[0:0,0:0]`` and sections
    of another binning occur, and are passed over;
what DATASEC leaves
    where there is no plausible BIASSEC, as in LSST raws: columns before it are prescan, columns after it
    serial overscan, rows after it parallel overscan;
AMPSEC
    descending along an axis: the image was flipped against the order of read-out (NOAO), so it is flipped
    back. Otherwise rows and columns are taken to be stored in the order of read-out, as LSST's are:
    a descending DETSEC then tells where the pixels lie on the detector, not that the image is flipped.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from ptc_stream.errors import GeometryError
from ptc_stream.images.cards import Header, header_value
from ptc_stream.images.headers import refuse_colour_filters
from ptc_stream.images.reading import FitsFile
from ptc_stream.images.sections import Box, Section, parse_section

if TYPE_CHECKING:
    from ptc_stream.images.camera import AmplifierDescription, CameraDescription

__all__ = ["AmplifierGeometry", "FrameGeometry", "check_equal", "frame_geometry"]

_SEGMENT = re.compile(r"SEGMENT(\d\d)", re.IGNORECASE)

# Narrower strips are no overscan to measure a level in: the first columns hold deferred charge of the image
# (the 2 columns of an e2v CCD230 are wrong by 15-50 ADU). A prescan of at least this width is better.
_MIN_OVERSCAN = 8

# Planes of reduced exposures (LSST's afw and others): not raw amplifiers.
_PLANES = frozenset({"MASK", "VARIANCE", "WEIGHT", "DQ", "ERR"})

# Of cameras that put several amplifiers into one HDU: DECam, MegaPrime, HSC. Taken for one amplifier, their
# halves would be averaged over two gains.
_SHARED_HDU_KEYS = ("DATASECA", "DSECA", "BSECA", "T_OSMN11")

# EXTNAMEs that name nothing: the defaults of astropy and of fpack.
_UNNAMED = frozenset({"", "PRIMARY", "COMPRESSED_IMAGE"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AmplifierGeometry:
    """Where one amplifier's pixels are.

    Attributes
    ----------
    name
        Name of the amplifier.
    hdu
        Number of the HDU that holds it.
    section
        All its pixels, within that HDU as stored.
    flip_x, flip_y
        What brings the pixel that is read first to (0, 0) of the section.
    data, serial_overscan, parallel_overscan
        Boxes within the flipped section.
    detector_section
        Place of `data` on the detector (DETSEC); descending where read out backwards.
    """

    name: str
    # A compressed copy of a frame has its image in another HDU, and is the same frame.
    hdu: int = dataclasses.field(compare=False)
    section: Box
    flip_x: bool
    flip_y: bool
    data: Box
    serial_overscan: Box | None
    parallel_overscan: Box | None
    detector_section: Section | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FrameGeometry:
    """The amplifiers of a file, in its order, and the detector they make up.

    Attributes
    ----------
    amplifiers
        At least one.
    detector_box
        DETSIZE, where headers have it.
    """

    amplifiers: tuple[AmplifierGeometry, ...]
    detector_box: Box | None


def frame_geometry(file: FitsFile, camera: CameraDescription | None = None) -> FrameGeometry:
    """Find the amplifiers of an open file.

    Parameters
    ----------
    file
        The file; only headers are read.
    camera
        Decides alone if it describes amplifiers.

    Returns
    -------
    FrameGeometry

    Raises
    ------
    GeometryError
        If there is no amplifier, sections are impossible, the frame is not that of the description, or the
        detector has a colour filter array.
    """
    refuse_colour_filters(file.path, (file.header(index) for index in range(len(file))))
    if camera is not None and camera.amplifiers:
        amplifiers = tuple(_described(file, camera, amplifier) for amplifier in camera.amplifiers)
    else:
        amplifiers = tuple(
            _from_header(file, index, number)
            for number, index in enumerate(_amplifier_hdus(file, camera), start=1)
        )
    names = [amplifier.name for amplifier in amplifiers]
    for name in names:
        if names.count(name) > 1:
            raise GeometryError(f"{file.path}: {names.count(name)} amplifiers are named {name}")
    return FrameGeometry(amplifiers=amplifiers, detector_box=_detector_box(file, amplifiers[0].hdu))


def check_equal(first: FrameGeometry, second: FrameGeometry, first_path: str, second_path: str) -> None:
    """Raise GeometryError, which names the first difference, unless two frames have the same geometry."""
    if first == second:
        return
    names, other_names = ([a.name for a in frame.amplifiers] for frame in (first, second))
    if names != other_names:
        detail = f"amplifiers {', '.join(names)} and {', '.join(other_names)}"
    elif first.detector_box != second.detector_box:
        detail = f"detector sizes {first.detector_box} and {second.detector_box}"
    else:
        one, other = next((a, b) for a, b in zip(first.amplifiers, second.amplifiers, strict=True) if a != b)
        field = next(
            f.name
            for f in dataclasses.fields(AmplifierGeometry)
            if getattr(one, f.name) != getattr(other, f.name)
        )
        detail = f"amplifier {one.name}, {field}: {getattr(one, field)} and {getattr(other, field)}"
    raise GeometryError(f"{first_path} and {second_path} have different geometry: {detail}")


def _described(
    file: FitsFile, camera: CameraDescription, amplifier: AmplifierDescription
) -> AmplifierGeometry:
    index = _described_hdu(file, camera, amplifier.hdu)
    shape = file.shape(index)
    if len(shape) != 2 or (camera.shape is not None and shape != camera.shape):
        expected = "an image" if camera.shape is None else f"{camera.shape[1]}x{camera.shape[0]}"
        raise GeometryError(
            f"{file.path}: HDU {index} is {_size(shape)}, camera {camera.name} has {expected}"
        )
    rows, columns = shape
    if not Box(0, columns, 0, rows).contains(amplifier.section):
        raise GeometryError(
            f"{file.path}: amplifier {amplifier.name} of camera {camera.name} is {amplifier.section}, "
            f"HDU {index} is only {_size(shape)}"
        )
    return AmplifierGeometry(
        name=amplifier.name,
        hdu=index,
        section=amplifier.section,
        flip_x=amplifier.flip_x,
        flip_y=amplifier.flip_y,
        data=amplifier.data,
        serial_overscan=amplifier.serial_overscan,
        parallel_overscan=amplifier.parallel_overscan,
        detector_section=None,
    )


def _described_hdu(file: FitsFile, camera: CameraDescription, hdu: int | str | None) -> int:
    if isinstance(hdu, int):
        if not 0 <= hdu < len(file):
            raise GeometryError(f"{file.path}: no HDU {hdu}, which camera {camera.name} names")
        return hdu
    for index in range(len(file)):
        if (hdu is None and len(file.shape(index)) > 1) or (hdu and file.name(index) == hdu):
            return index
    missing = "HDU with an image" if hdu is None else f"HDU named {hdu}"
    raise GeometryError(f"{file.path}: no {missing}, which camera {camera.name} expects")


def _amplifier_hdus(file: FitsFile, camera: CameraDescription | None) -> list[int]:
    images = [index for index in range(len(file)) if file.shape(index)]
    if camera is not None and camera.shape is not None:
        for index in images:
            if file.shape(index) != camera.shape:
                raise GeometryError(
                    f"{file.path}: HDU {index} is {_size(file.shape(index))}, "
                    f"camera {camera.name} has {camera.shape[1]}x{camera.shape[0]}"
                )
    # Guiders, thumbnails and other extras have no sections where the amplifiers have.
    with_sections = [index for index in images if header_value(file.header(index), "DATASEC") is not None]
    chosen = with_sections or images
    if not chosen:
        raise GeometryError(f"{file.path}: no image in {len(file)} HDUs")
    planes = [file.name(index) for index in chosen if file.name(index).upper() in _PLANES]
    if planes:
        raise GeometryError(
            f"{file.path}: HDU {planes[0]} is a plane of a reduced exposure, not an amplifier; "
            "describe the amplifiers of the image HDU with --camera"
        )
    for index in chosen:
        shared = [key for key in _SHARED_HDU_KEYS if header_value(file.header(index), key) is not None]
        if shared:
            raise GeometryError(
                f"{file.path}: HDU {index} has several amplifiers ({shared[0]}); describe them with --camera"
            )
        if len(file.shape(index)) != 2:
            raise GeometryError(f"{file.path}: HDU {index} is {_size(file.shape(index))}, not an image")
    return chosen


def _from_header(file: FitsFile, index: int, number: int) -> AmplifierGeometry:
    rows, columns = file.shape(index)
    whole = Box(0, columns, 0, rows)
    place = f"{file.path}, HDU {index} {file.name(index)}".rstrip()
    header = file.header(index)
    data = _data_box(header, whole, place)
    order = _section(header, "AMPSEC", place)
    flip_x = order is not None and order.descending_x
    flip_y = order is not None and order.descending_y
    bias = _plausible(header_value(header, "BIASSEC"), whole)
    if bias is not None and bias.intersection(data):
        bias = None
    data = data.mirrored(whole.shape, flip_x=flip_x, flip_y=flip_y)
    if bias is not None:
        bias = bias.mirrored(whole.shape, flip_x=flip_x, flip_y=flip_y)
    serial, parallel = _overscans(whole, data, bias)
    return AmplifierGeometry(
        name=_amplifier_name(file.name(index), number),
        hdu=index,
        section=whole,
        flip_x=flip_x,
        flip_y=flip_y,
        data=data,
        serial_overscan=serial,
        parallel_overscan=parallel,
        detector_section=_section(header, "DETSEC", place),
    )


def _data_box(header: Header, whole: Box, place: str) -> Box:
    sections = {key: _section(header, key, place) for key in ("DATASEC", "TRIMSEC")}
    data = whole
    for key, section in sections.items():
        if section is None:
            continue
        if not whole.contains(section.box):
            raise GeometryError(f"{place}: {key} {section.box} leaves the image {whole}")
        common = data.intersection(section.box)
        if common is None:
            raise GeometryError(f"{place}: {key} {section.box} has no pixel of {data}")
        data = common
    if not any(sections.values()):  # a BIASSEC alone, along one side of the image, leaves the rest as data
        bias = _plausible(header_value(header, "BIASSEC"), whole)
        if bias is not None and bias.x0 == 0 and bias.x1 < whole.x1:
            return Box(bias.x1, whole.x1, 0, whole.y1)
        if bias is not None and bias.x1 == whole.x1 and bias.x0 > 0:
            return Box(0, bias.x0, 0, whole.y1)
    return data


def _section(header: Header, key: str, place: str) -> Section | None:
    value = header_value(header, key)
    if value is None:
        return None
    try:
        return parse_section(value)
    except GeometryError as error:
        raise GeometryError(f"{place}: {key}: {error}") from error


def _plausible(value: object, whole: Box) -> Box | None:
    """Return BIASSEC if it can be believed: header writers leave placeholders and other binnings in it."""
    try:
        box = parse_section(value).box
    except GeometryError:
        return None
    return box if whole.contains(box) else None


def _overscans(whole: Box, data: Box, bias: Box | None) -> tuple[Box | None, Box | None]:
    """Return serial and parallel overscan, both as long as the section (the rows that are read)."""
    before = Box(0, data.x0, 0, whole.y1)
    after = Box(data.x1, whole.x1, 0, whole.y1)
    serial: Box | None
    if bias is not None and (bias.x1 <= data.x0 or data.x1 <= bias.x0):
        serial = Box(bias.x0, bias.x1, 0, whole.y1)
    else:
        strips = [strip for strip in (after, before) if strip.width > 0]
        wide = [strip for strip in strips if strip.width >= _MIN_OVERSCAN]
        serial = next(iter(wide or strips), None)
    parallel = Box(data.x0, data.x1, data.y1, whole.y1)
    if bias is not None and (bias.y1 <= data.y0 or data.y1 <= bias.y0):
        parallel = Box(data.x0, data.x1, bias.y0, bias.y1)
    return serial, parallel if parallel.height > 0 else None


def _amplifier_name(extension: str, number: int) -> str:
    """'C10' for LSST's 'Segment10', else the EXTNAME; a running number for want of one."""
    match = _SEGMENT.fullmatch(extension)
    if match is not None:
        return f"C{match.group(1)}"
    return extension if extension.upper() not in _UNNAMED else f"amp{number}"


def _detector_box(file: FitsFile, index: int) -> Box | None:
    for header in (file.header(index), file.header(0)):
        try:
            return parse_section(header_value(header, "DETSIZE")).box
        except GeometryError:
            continue
    return None


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in reversed(shape)) if shape else "no image"
