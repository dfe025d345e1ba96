from __future__ import annotations

import pydantic
import pytest

from ptc_stream.errors import ConfigurationError
from ptc_stream.images.header_map import HeaderMap, parse_map_options, parse_source


def test_options_become_fields() -> None:
    assert parse_map_options(
        [
            "exposure_time=IMG_EXP*0.001",
            "image_type==flat",
            "filter = FILTER + ND",
            "image_type:Light Frame=flat",
            "image_type:LED off=bias",
        ]
    ) == {
        "exposure_time": "IMG_EXP*0.001",
        "image_type": "=flat",
        "filter": "FILTER + ND",
        "image_types": {"Light Frame": "flat", "LED off": "bias"},
    }


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("exposure_time", "NAME=HEADER"),
        ("exposure_time=", "NAME=HEADER"),
        ("exptime=EXP", "is none of exposure_time"),
        ("image_types=A", "is none of"),
        ("filter:A=B", "is none of"),
        ("image_type:=flat", "is none of"),
        ("exposure_time=A*", "KEY\\*0.001"),
        ("filter=A+", "KEY\\+KEY"),
        ("filter=A+B*2", "KEY\\+KEY"),
        ("image_type==", "constant needs a value"),
    ],
)
def test_mistakes_are_told_in_one_line(option: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        parse_map_options([option])
    assert "\n" not in str(caught.value)


def test_a_value_mapped_twice_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        parse_map_options(["run=A", "run=B"])


def test_sources_are_constants_joins_or_products() -> None:
    assert parse_source("run", "=lab 3").constant == "lab 3"
    assert parse_source("filter", "FILTER+ND").joined == ("FILTER", "ND")
    assert parse_source("exposure_time", "IMG_EXP*1e-3").factors == ("IMG_EXP", 1e-3)
    assert parse_source("run", "RUN-NO").factors == ("RUN-NO",)


def test_the_map_of_the_user_goes_before_that_of_the_camera() -> None:
    user = HeaderMap(run="TEST", image_types={"LED": "flat"})
    camera = HeaderMap(run="SERIE", detector="CAM", image_types={"LED": "object", "OFF": "bias"})
    merged = user.over(camera)
    assert merged.run == "TEST"
    assert merged.detector == "CAM"
    assert merged.image_types == {"LED": "flat", "OFF": "bias"}


def test_it_is_checked_as_a_section_of_the_settings() -> None:
    adapter = pydantic.TypeAdapter(HeaderMap)
    assert adapter.validate_python({"run": "TEST", "filter": None}) == HeaderMap(run="TEST")
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python({"run": ""})
    with pytest.raises(ConfigurationError):
        adapter.validate_python({"run": "="})
