from __future__ import annotations

from aiokafka.partitioner import murmur2
from hypothesis import example, given
from hypothesis import strategies as st

from ptc_stream.bus.api import Topics, partition_of
from tests.strategies import BOUNDED


@BOUNDED
@given(instrument=st.text(), detector=st.text(), partitions=st.integers(1, 1000))
@example(instrument="", detector="", partitions=16)
@example(instrument="LSSTCam", detector="R22_S11", partitions=16)
def test_the_partition_is_the_one_that_kafka_clients_compute(
    instrument: str, detector: str, partitions: int
) -> None:
    key = f"{instrument}|{detector}".encode()
    assert partition_of(instrument, detector, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions


def test_the_partition_of_a_detector_never_changes() -> None:
    # Logs are written by it: another function would tear the flats of a detector apart.
    found = [
        partition_of("LSSTCam", f"R{raft}_S{slot}", 16) for raft in ("01", "22") for slot in ("00", "11")
    ]
    assert found == [14, 8, 11, 11]


def test_the_fullest_partition_holds_as_many_detectors_as_the_design_says() -> None:
    rafts = [f"R{x}{y}" for x in range(5) for y in range(5) if (x, y) not in {(0, 0), (0, 4), (4, 0), (4, 4)}]
    science = [f"{raft}_S{i}{j}" for raft in rafts for i in range(3) for j in range(3)]
    corners = [
        f"{raft}_{ccd}" for raft in ("R00", "R04", "R40", "R44") for ccd in ("SG0", "SG1", "SW0", "SW1")
    ]
    detectors = science + corners
    assert len(detectors) == 205
    for partitions, fullest in ((16, 18), (32, 15), (64, 12)):
        places = [partition_of("LSSTCam", detector, partitions) for detector in detectors]
        assert max(map(places.count, places)) == fullest


def test_topic_names_carry_the_prefix() -> None:
    assert Topics().name("pairs") == "ptc.pairs"
    assert Topics("teststand3.ptc").name("fits") == "teststand3.ptc.fits"
