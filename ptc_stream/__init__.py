"""Photon Transfer Curves while the camera run is still going on.

For notebooks::

    import ptc_stream

    exposures = ptc_stream.list_exposures("run123")
    pairs = ptc_stream.find_pairs(exposures, every_nth_pair=10)
    result = ptc_stream.fit_ptc(map(ptc_stream.measure_pair, pairs))
    result.gain, result.read_noise, result.table(), result.plot()

    store = ptc_stream.open_store("ptc-run123/ptc.sqlite")  # a run that is going on
    store.result().table()

For the command line: ``ptc-stream --help``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptc_stream.notebook import (
        find_pairs,
        fit_ptc,
        list_exposures,
        measure_pair,
        open_store,
        parameters,
    )

__all__ = [
    "__version__",
    "find_pairs",
    "fit_ptc",
    "list_exposures",
    "measure_pair",
    "open_store",
    "parameters",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the notebook functions on first use: workers and `--help` need none of them."""
    if name in __all__:
        return getattr(importlib.import_module("ptc_stream.notebook"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
