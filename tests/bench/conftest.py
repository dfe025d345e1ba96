"""Speed is judged when asked for (``-m bench``), not in the gate: machines are shared."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("markexpr") != "bench":
        for item in items:
            if item.get_closest_marker("bench") is not None:
                item.add_marker(pytest.mark.skip(reason="speed: run with -m bench"))
