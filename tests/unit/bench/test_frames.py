from __future__ import annotations

from pathlib import Path

import pytest

from ptc_stream.bench.frames import write_flats
from ptc_stream.notebook import find_pairs, list_exposures, measure_pair


@pytest.mark.parametrize("compressed", [False, True])
def test_files_are_flat_pairs_that_can_be_measured(tmp_path: Path, *, compressed: bool) -> None:
    files = write_flats(tmp_path, pairs=2, shape=(64, 48), amplifiers=2, compressed=compressed)
    assert len(files) == 4
    pairs = find_pairs(list_exposures(tmp_path))
    assert len(pairs) == 2
    measured = measure_pair(pairs[1], settings={"measuring.edge": 4, "measuring.min_pixels": 1000})
    for amplifier in measured.amplifiers:
        assert amplifier.points[0].flags == ()
        assert amplifier.points[0].gain_estimate == pytest.approx(1.5, rel=0.2)
