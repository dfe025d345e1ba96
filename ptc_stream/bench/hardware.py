"""What the machine can do at best: multiply-adds of one core, and bytes from memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ptc_stream.bench.figures import cpu_seconds
from ptc_stream.physics._jit import njit

__all__ = ["memory_rate", "multiply_add_rate"]

# Independent sums: two units with a latency of four or five cycles need ten to be busy all the time, and
# twelve fit into the registers of every machine.
_SUMS = 12
_STEPS = 2_000_000
_BYTES = 1 << 27


def multiply_add_rate() -> float:
    """Most float32 multiply-adds per second of one core: a loop that touches nothing but registers [1/s]."""
    # Registers of 512 bits do not exist everywhere: take the best width.
    return max(
        lanes * _SUMS * _STEPS / cpu_seconds(lambda loop=loop: loop(_STEPS), repeats=5)  # type: ignore[misc]
        for lanes, loop in ((4, _loop_4), (8, _loop_8), (16, _loop_16))
    )


def memory_rate() -> float:
    """Bytes per second that one core reads from a large array, by summing it [B/s]."""
    ones = np.ones(_BYTES // 8)
    return _BYTES / cpu_seconds(ones.sum, repeats=5)


def _peak(lanes: int) -> Any:
    """Make an intrinsic: `steps` times `_SUMS` fused multiply-adds of so many lanes, added up in the end."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        index, number = ir.IntType(64), ir.FloatType()
        vector = ir.VectorType(number, lanes)
        declare: Any = cgutils.get_or_insert_function
        multiply_add = declare(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32")
        # From the argument, so that nothing is known when it is compiled: x -> x / 2 + 1, which stays near 2.
        seed = builder.uitofp(arguments[0], number)
        half = builder.fdiv(seed, builder.fadd(seed, seed))
        factor = ir.Constant(vector, ir.Undefined)
        for lane in range(lanes):
            factor = builder.insert_element(factor, half, ir.Constant(ir.IntType(32), lane))
        one = ir.Constant(vector, [1.0] * lanes)
        before, loop, after = builder.block, *(builder.append_basic_block(name) for name in ("peak", "sum"))
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(index)
        step.add_incoming(ir.Constant(index, 0), before)
        sums = [builder.phi(vector) for _ in range(_SUMS)]
        results = []
        for k, total in enumerate(sums):
            total.add_incoming(ir.Constant(vector, [float(k)] * lanes), before)
            results.append(builder.call(multiply_add, (total, factor, one)))
            total.add_incoming(results[-1], loop)
        following = builder.add(step, ir.Constant(index, 1))
        step.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, arguments[0]), loop, after)
        builder.position_at_end(after)
        everything = results[0]
        for result in results[1:]:
            everything = builder.fadd(everything, result)
        whole = ir.Constant(number, 0.0)
        for lane in range(lanes):
            whole = builder.fadd(
                whole, builder.extract_element(everything, ir.Constant(ir.IntType(32), lane))
            )
        return whole

    def describe(_typing: Any, steps: Any) -> Any:
        return types.float32(steps), generate

    return intrinsic(describe)


_peak_4, _peak_8, _peak_16 = _peak(4), _peak(8), _peak(16)


@njit
def _loop_4(steps: int) -> float:
    return float(_peak_4(steps))


@njit
def _loop_8(steps: int) -> float:
    return float(_peak_8(steps))


@njit
def _loop_16(steps: int) -> float:
    return float(_peak_16(steps))
