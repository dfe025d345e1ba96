"""Sums of products of an image with its shifted self, at the speed of the vector unit, the same on every CPU.

A compiler may split a sum over the lanes of a vector in any way, and every CPU then has last bits of its own.
Here the order is part of the source: sixteen lanes, each a chain of fused multiply-adds in single precision,
folded in halves at the end of the chain. Registers of 512, 256 or 128 bits hold the lanes in one, two or four
pieces, which changes the speed and not a bit. numba has no such vectors: they are written in its
intermediate language.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ptc_stream.physics._jit import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LANES", "ROWS_AT_A_TIME", "multiply_shifted"]

LANES = 16
"""float32 of a cache line, too: a load that straddles two lines costs twice, so rows begin on one."""

ROWS_AT_A_TIME = 5
"""Lags in y that are summed at a time: each load then feeds enough multiply-adds to keep the units busy."""

# As many lags in x at a time as leave all sums in registers: 32 of 512 bits, else 16 (32 on ARM) that hold
# half or a quarter of the lanes. Sums that do not fit are stored and loaded at every step, which costs half
# the speed. The order of each sum, and so the result, is the same with any number.
_COLUMNS_AT_A_TIME = 4 if binding.get_host_cpu_features().get("avx512f") else 1

# float32 sums run over this many pixels before they are added up in float64. With 512 the error of a lag is
# 3e-10 of C_00 at 10^6 pixels, far below its sampling error of 1e-3; 1024 would be 10 % faster, but the ten
# rows that are under way no longer leave room for anything else in a first-level cache of 48 kB.
_CHAIN = 512


@njit
def multiply_shifted(
    base: NDArray[np.float32],
    partner: NDArray[np.float32],
    layout: tuple[int, int, int],
    max_lag: int,
) -> NDArray[np.float64]:
    """Sum base[q - dy stride] partner[q + dx] over q, from q = start on.

    Parameters
    ----------
    base, partner
        Images as flat vectors with zeros around every row, as far as the lags reach.
    layout
        start, length (a multiple of `LANES`), stride.
    max_lag
        R, number of lags per axis.

    Returns
    -------
    array
        [>= R, >= 2 R - 1], index [dy, dx + R - 1], rounded up to whole blocks of lags.
    """
    start, length, stride = layout
    row_blocks = (max_lag + ROWS_AT_A_TIME - 1) // ROWS_AT_A_TIME
    column_blocks = (2 * max_lag - 2 + _COLUMNS_AT_A_TIME) // _COLUMNS_AT_A_TIME
    out = np.zeros((row_blocks * ROWS_AT_A_TIME, column_blocks * _COLUMNS_AT_A_TIME))
    for begin in range(start, start + length, _CHAIN):
        size = min(_CHAIN, start + length - begin)
        for left in range(0, out.shape[1], _COLUMNS_AT_A_TIME):
            shift = begin + left - max_lag + 1
            for dy in range(0, out.shape[0], ROWS_AT_A_TIME):
                _add_products(out, dy, left, base, begin - dy * stride, stride, partner, shift, size)
    return out


def _describe(  # noqa: PLR0917 - numba calls it with the types of the arguments
    _typing: Any,
    out: Any,
    dy: Any,
    left: Any,
    base: Any,
    row: Any,
    stride: Any,
    partner: Any,
    shift: Any,
    size: Any,
) -> Any:
    return types.void(out, dy, left, base, row, stride, partner, shift, size), _generate


# Adds to a block of `out` the products of `size` pixels: rows of `base` down, columns of `partner` along.
_add_products: Any = intrinsic(_describe)


def _generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Write the block: a loop over vectors with one sum per lag, then each sum folded and added to `out`."""
    out, dy, left, base, row, stride, partner, shift, size = arguments
    pixels_base, pixels_partner, sums_out = (
        context.make_array(signature.args[k])(context, builder, value)
        for k, value in ((3, base), (6, partner), (0, out))
    )
    index = ir.IntType(64)
    vector = ir.VectorType(ir.FloatType(), LANES)
    declare: Any = cgutils.get_or_insert_function
    multiply_add = declare(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{LANES}f32")

    def whole(number: int) -> Any:
        return ir.Constant(index, number)

    rows = [
        builder.gep(pixels_base.data, [builder.sub(row, builder.mul(stride, whole(r)))])
        for r in range(ROWS_AT_A_TIME)
    ]
    columns = [
        builder.gep(pixels_partner.data, [builder.add(shift, whole(c))]) for c in range(_COLUMNS_AT_A_TIME)
    ]
    before, loop, after = (
        builder.block,
        builder.append_basic_block("vectors"),
        builder.append_basic_block("fold"),
    )
    builder.branch(loop)

    builder.position_at_end(loop)
    position = builder.phi(index)
    position.add_incoming(whole(0), before)
    sums = {(r, c): builder.phi(vector) for r in range(len(rows)) for c in range(len(columns))}
    for total in sums.values():
        total.add_incoming(ir.Constant(vector, [0.0] * LANES), before)

    def load(pixels: Any) -> Any:
        address = builder.bitcast(builder.gep(pixels, [position]), vector.as_pointer())
        return builder.load(address, align=4)

    values = [load(pixels) for pixels in columns]
    results = {}
    for r, pixels in enumerate(rows):
        value = load(pixels)
        for c in range(len(columns)):
            results[r, c] = builder.call(multiply_add, (values[c], value, sums[r, c]))
            sums[r, c].add_incoming(results[r, c], loop)
    following = builder.add(position, whole(LANES))
    position.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, size), loop, after)

    builder.position_at_end(after)
    width = builder.extract_value(sums_out.shape, 1)
    for (r, c), result in results.items():
        at = builder.add(builder.mul(builder.add(dy, whole(r)), width), builder.add(left, whole(c)))
        address = builder.gep(sums_out.data, [at])
        builder.store(builder.fadd(builder.load(address), _folded(builder, result)), address)
    return context.get_dummy_value()


def _folded(builder: Any, lanes: Any) -> Any:
    """Add the upper half of the lanes to the lower half until one is left; as float64."""
    half = LANES
    while half > 1:
        half //= 2
        lower, upper = (
            builder.shuffle_vector(
                lanes,
                lanes,
                ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(first, first + half))),
            )
            for first in (0, half)
        )
        lanes = builder.fadd(lower, upper)
    return builder.fpext(builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0)), ir.DoubleType())
