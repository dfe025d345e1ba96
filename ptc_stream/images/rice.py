"""Rice-compressed images in one call: RICE_1 of tile-compressed FITS (standard 4.0, section 10.4.1).

Camera files hold one tile per row. A reader that goes through Python for each spends its time there, and C
libraries go byte by byte. Here all tiles of an HDU are decoded by one compiled loop that has up to 63 bits
at hand.

Only the plain case is decoded: integers, tiles of whole rows. Anything else, and anything that does not come
out even, is left to astropy, which knows every case and what is wrong with a damaged one.

A tile is its first pixel, in full, then blocks of differences between neighbours. A block begins with the
number of low bits k of its differences, plus one: 0 if all differences are zero, the largest number if they
are written in full. Else a difference is as many zeros as its upper bits say, a one, and k lower bits; signs
are folded in: 0, -1, 1, -2, 2 are written as 0, 1, 2, 3, 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ptc_stream.images.cards import header_value
from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptc_stream.images.cards import Header

__all__ = ["decode_rice"]

# Whole numbers of fixed width in machine code, where int and np.uint64 must be told apart.
_Int: TypeAlias = Any

# Eight bytes are read at a time, also at the end of the last tile.
_MARGIN = 8

# With that many bits at hand a difference of the usual length is there; to fill up for each costs 50 %.
_ENOUGH = 32

# More rows, columns or pixels of a block than this is damage; it also keeps products within 64 bits.
_MOST = 1 << 31

# What makes unsigned integers of signed ones (standard 4.0, section 5.2.5): BZERO, and the type it leads to.
_UNSIGNED: dict[tuple[int, int], np.dtype[Any]] = {
    (16, 1 << 15): np.dtype(np.uint16),
    (32, 1 << 31): np.dtype(np.uint32),
}


class _Code(NamedTuple):
    """How one size of pixel is written."""

    bits: int
    """Of a pixel."""
    selector_bits: int
    """Of the number that each block begins with."""
    in_full: int
    """The selector of differences that are written in full."""


_CODES = {1: _Code(8, 3, 6), 2: _Code(16, 4, 14), 4: _Code(32, 5, 25)}
_TYPES: dict[int, np.dtype[Any]] = {8: np.dtype(np.uint8), 16: np.dtype(np.int16), 32: np.dtype(np.int32)}


def decode_rice(header: Header, data: bytes) -> NDArray[Any] | None:
    """Decode the image of a tile-compressed HDU.

    Parameters
    ----------
    header
        Header of the binary table, as it stands in the file.
    data
        Table and heap: all bytes after the header.

    Returns
    -------
    array or None
        ``[y, x]``, the same numbers and the same type (in the machine's byte order) as from astropy; None if
        this HDU is not of the plain kind, or is damaged.
    """
    layout = _layout(header, len(data))
    if layout is None:
        return None
    heap = np.zeros(len(data) - layout.heap + _MARGIN, np.uint8)
    heap[:-_MARGIN] = np.frombuffer(data, np.uint8)[layout.heap :]
    tiles = np.frombuffer(data, layout.descriptor, count=2 * layout.tiles).astype(np.int64).reshape(-1, 2)
    size, columns = heap.size - _MARGIN, layout.shape[1]
    # Each by itself first: the sum of two wild numbers of 64 bits may be anything.
    if np.any(tiles[:, 0] <= 0) or np.any(tiles[:, 1] < 0) or np.any(tiles > size):
        return None
    if np.any(tiles.sum(axis=1) > size):
        return None
    pixels = np.empty(layout.shape, layout.dtype)
    rows = np.minimum(layout.tile_rows, layout.shape[0] - layout.tile_rows * np.arange(layout.tiles))
    flat = pixels.ravel()
    code = (*_CODES[layout.dtype.itemsize], layout.block)
    if not _decode_tiles(heap, tiles, rows * columns, flat, code):
        return None
    if layout.unsigned is None:
        return pixels
    # Adding half of the range is turning over the highest bit.
    turned = pixels.view(layout.unsigned)
    turned ^= layout.unsigned.type(1 << (8 * layout.unsigned.itemsize - 1))
    return turned


class _Layout(NamedTuple):
    """What a header says about the table and the image in it."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    unsigned: np.dtype[Any] | None
    tiles: int
    tile_rows: int
    descriptor: str
    heap: int
    block: int


def _layout(header: Header, size: int) -> _Layout | None:
    """Read from the header where everything is; None unless it is as simple as in the files of cameras."""

    def number(key: str, default: int) -> int:
        value = header_value(header, key)
        value = default if value is None else value
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return value if isinstance(value, int) and not isinstance(value, bool) else -1

    names = {str(header_value(header, f"ZNAME{k}")): number(f"ZVAL{k}", -1) for k in (1, 2)}
    bits = number("ZBITPIX", -1)
    offset = number("BZERO", 0)
    descriptor = {"P": ">i4", "Q": ">i8"}.get(str(header_value(header, "TFORM1")).removeprefix("1")[:1])
    rows, columns, tile_rows = number("ZNAXIS2", -1), number("ZNAXIS1", -1), number("ZTILE2", 1)
    table = number("NAXIS1", -1) * number("NAXIS2", -1)
    simple: bool = (
        header_value(header, "ZCMPTYPE") in {"RICE_1", "RICE_ONE"}
        and header_value(header, "TTYPE1") == "COMPRESSED_DATA"
        and number("TFIELDS", -1) == 1  # no tiles that are compressed otherwise, nothing quantised
        and descriptor is not None
        and number("NAXIS1", -1) == 2 * np.dtype(descriptor).itemsize
        and number("ZNAXIS", -1) == 2
        and bits in _TYPES
        and names.get("BYTEPIX", 4) == bits // 8
        and names.get("BLOCKSIZE", 32) > 0
        and number("ZTILE1", columns) == columns
        and min(rows, columns, tile_rows) > 0
        and max(rows, columns, tile_rows, names.get("BLOCKSIZE", 32)) < _MOST
        and number("NAXIS2", -1) == -(-rows // tile_rows)
        and header_value(header, "BLANK") is None
        and header_value(header, "ZBLANK") is None
        and number("BSCALE", 1) == 1
        and (offset == 0 or (bits, offset) in _UNSIGNED)
        and table <= number("THEAP", table) <= size
    )
    if not simple or descriptor is None:
        return None
    return _Layout(
        shape=(rows, columns),
        dtype=_TYPES[bits],
        unsigned=_UNSIGNED.get((bits, offset)),
        tiles=number("NAXIS2", -1),
        tile_rows=tile_rows,
        descriptor=descriptor,
        heap=number("THEAP", table),
        block=names.get("BLOCKSIZE", 32),
    )


def _describe_leading_zeros(_typing: Any, bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))  # 0: zero has 64, not any number

    return types.uint64(bits), generate


# Number of zeros above the highest one of a 64-bit number; 64 for zero.
_leading_zeros: Any = intrinsic(_describe_leading_zeros)


@njit
def _decode_tiles(
    heap: NDArray[np.uint8],
    tiles: NDArray[np.int64],
    sizes: NDArray[np.int64],
    out: NDArray[Any],
    code: tuple[int, int, int, int],
) -> bool:
    """Decode tiles (length, offset in the heap) of so many pixels, one after the other; False if damaged."""
    begin = 0
    for tile in range(tiles.shape[0]):
        end = begin + sizes[tile]
        if not _decode_tile(heap, (tiles[tile, 1], tiles[tile, 0]), out[begin:end], code):
            return False
        begin = end
    return True


@njit
def _decode_tile(
    heap: NDArray[np.uint8], place: tuple[_Int, _Int], out: NDArray[Any], code: tuple[int, int, int, int]
) -> bool:
    start, length = place
    bits, selector_bits, in_full, block = code
    one = np.uint64(1)
    if 8 * length < bits:
        return False
    last: _Int = np.int64(0)
    for byte in range(bits // 8):
        last = (last << 8) | np.int64(heap[start + byte])
    # `held` has the bits that come next at its upper end, `number` of them; `position` is the byte after.
    held: _Int = np.uint64(0)
    number: _Int = np.int64(0)
    position: _Int = start + bits // 8
    limit = start + length
    for first in range(0, out.size, block):
        stop = min(first + block, out.size)
        held, number, position = _refill(heap, (held, number, position), limit)
        k: _Int = np.int64(held >> np.uint64(64 - selector_bits)) - 1
        held <<= np.uint64(selector_bits)
        number -= selector_bits
        if k < 0:
            for i in range(first, stop):
                out[i] = last
        elif k == in_full:
            for i in range(first, stop):
                held, number, position = _refill(heap, (held, number, position), limit)
                folded = np.int64(held >> np.uint64(64 - bits))
                held <<= np.uint64(bits)
                number -= bits
                last += (folded >> 1) ^ -(folded & 1)
                out[i] = last
        elif k > in_full:
            return False
        else:
            down = np.uint64(63 - k)
            for i in range(first, stop):
                if number < _ENOUGH:
                    held, number, position = _refill(heap, (held, number, position), limit)
                zeros = _leading_zeros(held)
                upper: _Int = np.int64(0)
                while zeros >= np.uint64(number):  # the run of zeros goes on beyond what is held
                    if position >= limit:
                        return False
                    upper += number
                    held, number, position = _refill(heap, (np.uint64(0), np.int64(0), position), limit)
                    zeros = _leading_zeros(held)
                upper += np.int64(zeros)
                held = (held << zeros) << one
                number -= np.int64(zeros) + 1
                if number < k:
                    held, number, position = _refill(heap, (held, number, position), limit)
                folded = (upper << k) | np.int64((held >> one) >> down)
                held <<= np.uint64(k)
                number -= k
                last += (folded >> 1) ^ -(folded & 1)
                out[i] = last
        # Bits of what follows the tile have been taken for its own.
        if position - number // 8 > limit:
            return False
    return True


@njit
def _refill(heap: NDArray[np.uint8], state: tuple[_Int, _Int, _Int], limit: _Int) -> tuple[_Int, _Int, _Int]:
    """Hold at least 56 bits, also beyond the tile's end, where the heap goes on or has a margin."""
    held, number, position = state
    if position > limit:
        return held, number, position
    word: _Int = np.uint64(0)
    for byte in range(8):
        word = (word << np.uint64(8)) | np.uint64(heap[position + byte])
    taken = (63 - number) >> 3
    return held | (word >> np.uint64(number)), number + 8 * taken, position + taken
