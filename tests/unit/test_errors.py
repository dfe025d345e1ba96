from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import Iterator

import pytest

import ptc_stream.replay
from ptc_stream import errors
from ptc_stream.errors import Disposition, PtcStreamError, disposition


def tree(root: type[PtcStreamError]) -> Iterator[type[PtcStreamError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Name of every class in the docstring of the module: its parent, and the disposition beside it."""
    assert errors.__doc__ is not None
    found: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ((?:[│├└─ ]{4})*)([A-Z]\w+)(.*?)(?:-> (\w+))?$", line)
        if match:
            depth = len(match[1]) // 4
            above = [*above[:depth], match[2]]
            found[match[2]] = (above[-2] if depth else None, match[4])
    return found


def test_the_drawing_is_the_tree() -> None:
    ours = {kind.__name__: kind for kind in tree(PtcStreamError) if kind.__module__ == errors.__name__}
    drawing = drawn()
    assert drawing.keys() == ours.keys()
    for name, (parent, _) in drawing.items():
        assert ours[name].__bases__[0].__name__ == (parent or "Exception")


def test_the_drawing_says_what_is_done_about_each() -> None:
    drawing = drawn()

    def stated(name: str) -> str:
        parent, said = drawing[name]
        if said is not None:
            return said
        return "STOP" if parent is None else stated(parent)

    for kind in tree(PtcStreamError):
        if kind.__name__ in drawing:
            assert disposition(kind("x")) is Disposition[stated(kind.__name__)], kind.__name__
    assert {stated(name) for name in drawing} == set(Disposition.__members__)


def test_every_class_is_public() -> None:
    ours = {kind.__name__ for kind in tree(PtcStreamError) if kind.__module__ == errors.__name__}
    assert ours < set(errors.__all__)


@pytest.mark.parametrize(
    "error", [ValueError(), KeyboardInterrupt(), asyncio.CancelledError(), MemoryError()]
)
def test_what_is_not_ours_stops_the_service(error: BaseException) -> None:
    assert disposition(error) is Disposition.STOP


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (errors.ImageUnreadable, "IMAGE_UNREADABLE"),
        (errors.DecodeError, "DECODE_ERROR"),
        (errors.GeometryError, "GEOMETRY_ERROR"),
        (errors.JobTimeout, "JOB_TIMEOUT"),
    ],
)
def test_reasons_are_the_names_in_capitals(kind: type[PtcStreamError], reason: str) -> None:
    assert kind("x").reason == reason


def test_reasons_tell_the_classes_apart() -> None:
    kinds = [kind for kind in tree(PtcStreamError) if kind.__module__ == errors.__name__]
    assert len({kind("x").reason for kind in kinds}) == len(kinds)
    assert all(re.fullmatch(r"[A-Z]+(_[A-Z]+)*", kind("x").reason) for kind in kinds)


def test_a_recorded_reject_keeps_its_reason() -> None:
    error = ptc_stream.replay.RecordedReject("IMAGE_UNREADABLE", "it was broken")
    assert (error.reason, str(error), disposition(error)) == (
        "IMAGE_UNREADABLE",
        "it was broken",
        Disposition.REJECT,
    )


@pytest.mark.parametrize("kind", [k for k in tree(PtcStreamError) if k.__module__ == errors.__name__])
def test_errors_travel_between_processes(kind: type[PtcStreamError]) -> None:
    again = pickle.loads(pickle.dumps(kind("what happened")))  # noqa: S301 - our own bytes
    assert type(again) is kind
    assert str(again) == "what happened"


def test_exit_codes_tell_what_a_script_can_do() -> None:
    codes = {kind.__name__: kind.exit_code for kind in tree(PtcStreamError)}
    assert codes["ConfigurationError"] == codes["StoreMismatch"] == 2
    assert codes["StoreInUse"] == 3
    assert codes["TooManyRejects"] == 4
    others = {"ConfigurationError", "StoreMismatch", "StoreInUse", "TooManyRejects"}
    assert {code for name, code in codes.items() if name not in others} == {1}
