"""FITS files as they come: plain, gzip, tile-compressed; whole, truncated, or not there.

astropy reads the pixels, but for Rice-compressed ones, which `ptc_stream.images.rice` decodes five times
faster. What astropy does not do is tell a fault of the storage (nobody's fault, wait) from a fault of the
file (reject it), and it only warns of a truncated file: both are settled here, so that all other modules see
typed errors. Files are read, not mapped: a mapped file that shrinks, or whose server goes away, kills the
process with SIGBUS instead of raising an error.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import threading
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.utils.exceptions import AstropyUserWarning

from ptc_stream.errors import ImageMissing, ImageUnreadable, PtcStreamError, StorageUnavailable
from ptc_stream.images.cards import Header, header_value, parse_header, printable
from ptc_stream.images.rice import decode_rice

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from numpy.typing import NDArray

__all__ = ["FitsFile", "LeadingHeaders", "check_whole", "leading_headers"]

_BLOCK = 2880
_CARD = 80
_GZIP_MAGIC = b"\x1f\x8b"

# A primary header of 1 MB has 13,000 cards. Larger: a file without END, not worth reading to its end.
_MAX_HEADER_BLOCKS = 364

# A gzip bomb expands a thousandfold. The largest single frames (20k x 20k, 32 bit) need 1.6 GB;
# a worker that takes more than that for one file starves the machine.
_MAX_GUNZIPPED = 2 << 30

# A damaged header may claim any NAXISn; decompressing tiles allocates that much before reading a byte.
_MAX_PIXELS = 1 << 29

# What the operating system says when the storage, not the file, is at fault. Permission (EACCES) is not
# here: no waiting repairs it, and a partition must not stand still for one unreadable file.
_STORAGE_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.EREMOTEIO,
        errno.ENODEV,
        errno.ENXIO,
        errno.ENOTCONN,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ESHUTDOWN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ENOLCK,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)

# Warnings of astropy that are dealt with otherwise; every one not named here reaches the user.
_SETTLED_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # FitsFile compares sizes, and looks at what follows the last HDU, itself.
    ("File may have been truncated", AstropyUserWarning),
    ("Error validating header for HDU", VerifyWarning),
    ("Unexpected extra padding at the end of the file", AstropyUserWarning),
    # Real cameras write these; values are looked up in the bytes (`cards`), which takes no offence.
    ("Found a SIMPLE card but its format doesn't respect the FITS Standard", VerifyWarning),
    ("Header block contains null bytes", AstropyUserWarning),
    ("Missing padding to end of the FITS block", AstropyUserWarning),
    ("Unexpected bytes trailing END keyword", AstropyUserWarning),
    ("non-ASCII characters are present", AstropyUserWarning),
    ("The following header keyword is invalid", VerifyWarning),
)
# An HDU that astropy would only leave out: an amplifier must not vanish without a word.
_FATAL_WARNING = "An exception occurred matching an HDU header to the appropriate HDU type"


# Filters of warnings are one list for the whole process: one thread at a time may change it.
_warning_filters = threading.RLock()


@contextlib.contextmanager
def _settled_warnings() -> Iterator[None]:
    # Never held across a yield to a caller.
    with _warning_filters, warnings.catch_warnings():
        for message, category in _SETTLED_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        warnings.filterwarnings("error", message=_FATAL_WARNING)
        yield


@contextlib.contextmanager
def _file_errors(path: str | os.PathLike[str], doing: str = "reading") -> Iterator[None]:
    """Turn what the operating system or a parser raises about `path` into the project's errors."""
    try:
        yield
    except PtcStreamError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageMissing(f"{path}: no such file") from error
    except OSError as error:
        if error.errno in _STORAGE_ERRNOS:
            raise StorageUnavailable(f"{path}: {error.strerror} ({doing})") from error
        raise ImageUnreadable(f"{path}: {error.strerror or error} ({doing})") from error
    except MemoryError:
        raise
    except Exception as error:  # a parser fed arbitrary bytes may raise anything at all
        raise ImageUnreadable(f"{path}: not readable as FITS ({doing}: {error})") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadingHeaders:
    """The beginning of a file, read without its pixels.

    Attributes
    ----------
    primary
        Bytes of the primary header, in blocks of 2880; less where the file ends or its gzip stream breaks.
    extension
        Header of the first extension where the primary HDU holds no image, else empty.
    size
        Size of the file on disk [bytes].
    problem
        Why `primary` is not a whole FITS header, in words; empty if it is one.
    """

    primary: bytes
    extension: bytes
    size: int
    problem: str


def _read_header(stream: BinaryIO | gzip.GzipFile) -> tuple[bytes, str]:
    """Return header blocks up to and with END, and what kept us from finding it."""
    blocks: list[bytes] = []
    try:
        while len(blocks) < _MAX_HEADER_BLOCKS:
            block = stream.read(_BLOCK)
            blocks.append(block)
            if len(blocks) == 1 and not block.startswith((b"SIMPLE  ", b"XTENSION")):
                return block, f"not a FITS file: it begins with {block[:16]!r}" if block else "an empty file"
            if len(block) < _BLOCK:
                return b"".join(blocks), "truncated inside its first header"
            cards = (block[i : i + _CARD] for i in range(0, _BLOCK, _CARD))
            if any(card.strip(b" \0") == b"END" for card in cards):
                return b"".join(blocks), ""
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return b"".join(blocks), f"its gzip stream is cut off or damaged ({error})"
    return b"".join(blocks), "a header without END"


def leading_headers(path: str | os.PathLike[str]) -> LeadingHeaders:
    """Read the first header or two of a file, plain or gzip, whole or not.

    Raises
    ------
    ImageMissing
        If there is no such file.
    StorageUnavailable
        If the storage fails.
    ImageUnreadable
        If it is no file, or may not be read.
    """
    with _file_errors(path), Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        is_gzip = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if is_gzip else file
        primary, problem = _read_header(stream)
        extension = b""
        if not problem and header_value(parse_header(primary), "NAXIS") == 0:
            extension, extension_problem = _read_header(stream)
            if extension_problem:  # no matter here, where only headers are read: FitsFile rejects such a file
                extension = b""
    return LeadingHeaders(primary=primary, extension=extension, size=size, problem=problem)


class FitsFile:
    """An open FITS file of which nothing is missing; one HDU's pixels in memory at a time.

    Use it as a context manager.

    Parameters
    ----------
    path
        Plain, gzip-compressed or tile-compressed FITS.

    Raises
    ------
    ImageMissing, StorageUnavailable
        On entry or, the latter, while pixels are read.
    ImageUnreadable
        On entry: not FITS, truncated, damaged gzip. From `pixels`: this HDU cannot be decoded.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._resources = contextlib.ExitStack()
        self._hdus: Any = None
        self._stream: BinaryIO | None = None
        self._headers: list[Header] = []
        self._size = 0
        self._held: tuple[int, NDArray[Any]] | None = None

    def __enter__(self) -> Self:
        try:
            with _file_errors(self.path):
                self._open()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hdus = self._stream = self._held = None
        self._headers = []
        self._resources.close()

    def _open(self) -> None:
        start = leading_headers(self.path)
        if start.problem:
            raise ImageUnreadable(f"{self.path}: {start.problem}")
        file: BinaryIO = self._resources.enter_context(
            Path(self.path).open("rb")  # noqa: SIM115 - closed by the stack, in __exit__
        )
        if file.read(2) == _GZIP_MAGIC:
            file.seek(0)
            file = self._gunzipped(file)
        primary = printable(start.primary)
        if primary != start.primary:  # astropy finds no END beside null bytes: mend them in memory
            file.seek(0)
            file = io.BytesIO(primary + file.read()[len(primary) :])
        self._stream = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with _settled_warnings():
            self._hdus = self._resources.enter_context(
                contextlib.closing(fits.open(file, mode="readonly", memmap=False))
            )
            len(self._hdus)  # reads every header
        self._check_structure(file)
        self._check_whole(file)

    def _gunzipped(self, file: BinaryIO) -> io.BytesIO:
        # In memory and to the end: only the checksum at its end tells that a gzip file is whole.
        whole = io.BytesIO()
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                while chunk := stream.read(1 << 20):
                    whole.write(chunk)
                    if whole.tell() > _MAX_GUNZIPPED:
                        raise ImageUnreadable(
                            f"{self.path}: expands to more than {_MAX_GUNZIPPED >> 30} GB; "
                            "gunzip it and give the plain file"
                        )
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageUnreadable(f"{self.path}: its gzip stream is cut off or damaged ({error})") from error
        return whole

    def _check_structure(self, file: BinaryIO) -> None:
        """Read the headers from the bytes, and raise where what astropy calls an HDU is none."""
        for index, hdu in enumerate(self._hdus):
            info = hdu.fileinfo()
            file.seek(info["hdrLoc"])
            header = parse_header(file.read(info["datLoc"] - info["hdrLoc"]))
            if index and "XTENSION" not in header:
                raise ImageUnreadable(f"{self.path}: what follows HDU {index - 1} is no HDU: damaged")
            self._headers.append(header)

    def _check_whole(self, file: BinaryIO) -> None:
        end = 0
        count = len(self._hdus)
        for index, hdu in enumerate(self._hdus):
            info = hdu.fileinfo()
            end = info["datLoc"] + info["datSpan"]
            # Some writers leave the last block short; that is told from a cut only if nothing can follow.
            unpadded = count == 1 and info["datLoc"] + hdu.size <= self._size
            if end > self._size and not unpadded:
                raise ImageUnreadable(
                    f"{self.path}: truncated in HDU {index} ({hdu.name}): "
                    f"{self._size} bytes, at least {end} expected"
                )
        file.seek(end)
        rest = file.read(_BLOCK).strip(b"\0")  # padding beyond the last block does no harm
        if rest:
            cut = b"XTENSION".startswith(rest[:8])
            what = f"truncated inside the header of HDU {count}" if cut else "damaged"
            raise ImageUnreadable(f"{self.path}: what follows HDU {count - 1} is no HDU: {what}")
        expected = header_value(self._headers[0], "NEXTEND")
        if isinstance(expected, int) and count - 1 < expected:
            raise ImageUnreadable(f"{self.path}: truncated: {count - 1} extensions, NEXTEND says {expected}")

    def __len__(self) -> int:
        return len(self._hdus)

    def header(self, index: int) -> Header:
        """Return the header values of an HDU as they stand in the file."""
        return self._headers[index]

    def name(self, index: int) -> str:
        """Return the EXTNAME of an HDU, as written; empty if it has none."""
        value = header_value(self.header(index), "EXTNAME")
        return "" if value is None else str(value)

    def shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of an HDU's image (rows, columns), () for tables and HDUs without data."""
        hdu = self._hdus[index]
        if not isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU):
            return ()
        return tuple(int(n) for n in hdu.shape)

    def pixels(self, index: int) -> NDArray[Any]:
        """Return the image of an HDU, ``[y, x]``, with the file's own number type.

        The array is kept until another HDU is asked for, so that several amplifiers of one HDU cost one
        read. It must not be changed.

        Raises
        ------
        ImageUnreadable
            If its pixels cannot be decoded: the file is whole, but this HDU is damaged.
        StorageUnavailable
            If the storage fails.
        """
        if self._held is not None and self._held[0] == index:
            return self._held[1]
        if self._held is not None:
            del self._hdus[self._held[0]].data
            self._held = None
        with _file_errors(self.path, f"pixels of HDU {index} ({self.name(index)})"), _settled_warnings():
            if np.prod(self.shape(index), dtype=np.float64) > _MAX_PIXELS:
                raise ImageUnreadable(f"{self.path}: HDU {index} claims {self.shape(index)} pixels")
            hdu = self._hdus[index]
            decoded = self._rice_decoded(index) if isinstance(hdu, fits.CompImageHDU) else None
            data: NDArray[Any] = hdu.data if decoded is None else decoded
        self._held = index, data
        return data

    def _rice_decoded(self, index: int) -> NDArray[Any] | None:
        info = self._hdus[index].fileinfo()
        stream = self._stream
        if stream is None:
            return None
        stream.seek(info["datLoc"])
        return decode_rice(self._headers[index], stream.read(info["datSpan"]))


def check_whole(path: str | os.PathLike[str]) -> None:
    """Raise unless a file is complete FITS: for those who watch files being written.

    Raises
    ------
    ImageMissing, ImageUnreadable, StorageUnavailable
        As `FitsFile` on entry. Pixels are not decoded.
    """
    with FitsFile(path):
        pass
