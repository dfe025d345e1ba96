from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ptc_stream.core.inflight import Finished, InflightWindow, Slot
from tests.strategies import BOUNDED


def test_outputs_wait_for_the_record_before_them() -> None:
    window: InflightWindow[str] = InflightWindow(3)
    slow: Slot[str] = Slot()
    window.admit(10, [slow], new_group="group")
    window.admit(15, [Slot(("b",))])
    assert window.pop_ready() == []
    slow.outputs = ("a1", "a2")
    assert window.pop_ready() == [Finished(11, "group", 10, ("a1", "a2")), Finished(16, None, 15, ("b",))]
    assert window.pop_ready() == []


def test_a_record_without_effects_is_finished_at_once() -> None:
    window: InflightWindow[str] = InflightWindow(1)
    window.admit(3, [])
    assert window.pop_ready() == [Finished(4, None, 3, ())]


def test_a_job_that_gave_nothing_is_not_one_that_still_runs() -> None:
    window: InflightWindow[str] = InflightWindow(2)
    window.admit(0, [Slot(()), Slot()])
    assert window.pop_ready() == []
    window = InflightWindow(2)
    window.admit(0, [Slot(()), Slot(("x",))])
    assert [item.outputs for item in window.pop_ready()] == [("x",)]


def test_room_is_what_may_still_come() -> None:
    window: InflightWindow[str] = InflightWindow(2)
    assert (window.room, len(window)) == (2, 0)
    window.admit(0, [Slot()])
    window.admit(1, [Slot(("b",))])
    assert (window.room, len(window)) == (0, 2)
    window.pop_ready()
    assert (window.room, len(window)) == (0, 2)


@BOUNDED
@given(data=st.data(), jobs_of=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_whatever_order_jobs_finish_in_results_leave_in_the_order_of_the_input(
    data: st.DataObject, jobs_of: list[int]
) -> None:
    window: InflightWindow[tuple[int, int]] = InflightWindow(len(jobs_of))
    slots = {
        (record, job): Slot[tuple[int, int]]() for record, jobs in enumerate(jobs_of) for job in range(jobs)
    }
    for record in range(len(jobs_of)):
        window.admit(2 * record, [slot for (owner, _), slot in slots.items() if owner == record])
    left: list[Finished[tuple[int, int]]] = window.pop_ready()
    for key in data.draw(st.permutations(sorted(slots))):
        slots[key].outputs = (key,)
        left += window.pop_ready()
        unfinished = [owner for (owner, _), slot in slots.items() if slot.outputs is None]
        # everything before the first unfinished record has left, and nothing beyond it
        assert len(left) == (min(unfinished) if unfinished else len(jobs_of))
    assert [item.offset for item in left] == [2 * record for record in range(len(jobs_of))]
    assert [item.next_offset for item in left] == [2 * record + 1 for record in range(len(jobs_of))]
    assert [output for item in left for output in item.outputs] == sorted(slots)
    assert len(window) == 0
