"""The one place where numba meets the type checker.

numba's decorators hide the signature of a kernel from the type checker; this wrapper
keeps it. Two forms::

    @njit                    # sums in the order of the source, IEEE rules
    @njit(reassociate=True)  # long sums, spread over the lanes of a vector unit

Both give the same bytes for the same inputs on one type of CPU: nothing runs in parallel inside a kernel.

numba's cache is keyed on the source file of the kernel alone. A kernel that calls a kernel of another
module keeps the old version of it until its own file changes: kernels call kernels of their module only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["njit"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Reassociation of sums and contraction into fused multiply-adds is all that vector units need. The other
# flags of fast-math (no NaN, no infinity) would let the compiler drop the tests for bad pixels.
_REASSOCIATE = frozenset({"reassoc", "contract", "nsz"})


@overload
def njit(function: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def njit(*, reassociate: bool = False) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


def njit(function: Callable[..., Any] | None = None, /, *, reassociate: bool = False) -> Any:
    """Compile a kernel to machine code that is cached on disk and runs without the GIL.

    Division by zero gives infinity or NaN, as in numpy, rather than ZeroDivisionError.

    Parameters
    ----------
    function
        The kernel, when used as a plain decorator.
    reassociate
        Let the compiler split a sum into one per vector lane and fuse multiply-adds. The order of the sum
        is then fixed by the compiled code instead of the source: the same on every call, other on another
        type of CPU. Only for sums of many terms of which no bit matters; never where NaN are tested.

    Returns
    -------
    Callable
        The compiled kernel, or a decorator that makes one.
    """

    def compiled(kernel: Callable[..., Any]) -> Any:
        try:
            return _decorator(cache=True, reassociate=reassociate)(kernel)
        except RuntimeError:
            # Neither the package nor the home directory can be written (a sealed container): numba has no
            # place for its cache and says so here, when it decorates. Compile once per process instead.
            return _decorator(cache=False, reassociate=reassociate)(kernel)

    return compiled if function is None else compiled(function)


def _decorator(*, cache: bool, reassociate: bool) -> Callable[[Callable[..., Any]], Any]:
    fastmath = set(_REASSOCIATE) if reassociate else False
    decorator: Callable[[Callable[..., Any]], Any] = numba.njit(
        cache=cache, nogil=True, error_model="numpy", fastmath=fastmath
    )
    return decorator
