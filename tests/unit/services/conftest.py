from __future__ import annotations

import pytest

from ptc_stream.services import runner


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying again is what is tested, not the pause before it."""
    monkeypatch.setattr(runner, "_backoff_s", lambda _attempt: 0.0)
