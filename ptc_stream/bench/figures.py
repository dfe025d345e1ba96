"""What a benchmark says, and how time is taken.

Times are CPU seconds of this process, the smallest of several runs: what others do on the machine then
matters least. Where several processes work together it is wall time, and the load says what that is worth.
What counts is ratios within one run.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from ptc_stream import __version__

__all__ = ["Figure", "cpu_seconds", "machine"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a benchmark.

    Attributes
    ----------
    name, value, unit
        What was measured.
    reference, reference_is
        The same done in another way, in the same run and unit.
    limit, limit_is
        What the hardware allows, in the same unit.
    target, met
        What is aimed at, and whether it was reached; no target: empty, None.
    note
        What else to know, such as that a figure is extrapolated.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    reference_is: str = ""
    limit: float | None = None
    limit_is: str = ""
    target: str = ""
    met: bool | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all fields, and value / reference and value / limit."""
        return dataclasses.asdict(self) | {
            "of_reference": None if not self.reference else self.value / self.reference,
            "of_limit": None if not self.limit else self.value / self.limit,
        }


def cpu_seconds(work: Callable[[], object], *, repeats: int = 5, warm_up: bool = True) -> float:
    """CPU seconds of one call of `work`, the smallest of `repeats`, after one that does not count."""
    if warm_up:
        work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def machine() -> dict[str, Any]:
    """Say what the figures were measured on."""
    cpu = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numba": numba.__version__,
        "ptc_stream": __version__,
    }
