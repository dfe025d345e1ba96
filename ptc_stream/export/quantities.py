"""The four quantities that figures of a run show of every amplifier: names, labels, units."""

from __future__ import annotations

import dataclasses

from ptc_stream.records import AmplifierFitResult

__all__ = ["A00", "GAIN", "QUANTITIES", "Quantity"]


@dataclasses.dataclass(frozen=True, slots=True)
class Quantity:
    """A result: its field in the record and how it is written; `scale` turns its unit into `unit`."""

    name: str
    label: str
    unit: str
    scale: float
    relative: bool = False

    def value(self, result: AmplifierFitResult) -> float:
        """Return the value in `unit`."""
        return float(getattr(result, self.name)) * self.scale

    def error(self, result: AmplifierFitResult) -> float:
        """Return its standard error in `unit`."""
        return float(getattr(result, f"{self.name}_error")) * self.scale


GAIN = Quantity("gain", "Gain", "e⁻/ADU", 1.0, relative=True)
A00 = Quantity("a00", "$a_{00}$", "10⁻⁶/e⁻", 1e6)
QUANTITIES = (
    GAIN,
    Quantity("read_noise", "Read noise", "e⁻", 1.0),
    A00,
    Quantity("turnoff", "Turnoff", "10³ ADU", 1e-3),
)
