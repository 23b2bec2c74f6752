"""Every record becomes JSON and comes back the same; what is no such record is refused."""

import json
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtoolkit.errors import ConfigError
from qtoolkit.records import ModelSource, ProgressEvent, Record
from tests.records.examples import RECORDS, any_record

pytestmark = pytest.mark.once

EACH = pytest.mark.parametrize("kind", RECORDS.values(), ids=RECORDS)
DRAWN = settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])


def test_the_records_are_found() -> None:
    assert {"Plan", "LayerPlan", "QuantizationReport", "MemoryReport", "PeakMemory", "Doctor"} <= RECORDS.keys()


@EACH
@DRAWN
@given(data=st.data())
def test_a_record_comes_back_from_json_the_same(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(any_record(kind))
    text = json.dumps(record.to_dict(), allow_nan=False)
    again = kind.from_dict(json.loads(text))
    assert type(again) is kind
    assert again == record
    assert again.to_dict() == record.to_dict()


@EACH
@DRAWN
@given(data=st.data())
def test_to_dict_holds_plain_values_and_shares_none(kind: type[Record], data: st.DataObject) -> None:
    record = data.draw(any_record(kind))

    def check(value: Any) -> None:
        assert value is None or type(value) in {str, int, float, bool, list, dict}
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(item)

    values = record.to_dict()
    check(values)
    assert (values["record"], values["schema_version"]) == (kind.__name__, kind.schema_version)


@EACH
@settings(DRAWN, max_examples=2)
@given(data=st.data())
def test_a_dict_of_something_else_is_refused(kind: type[Record], data: st.DataObject) -> None:
    values = data.draw(any_record(kind)).to_dict()
    needed = [field.name for field in fields(kind) if field.name not in kind.added_fields]
    absent = data.draw(st.sampled_from(needed))
    wrong: dict[str, Any] = {
        "another version": values | {"schema_version": kind.schema_version + 1},
        "a version as text": values | {"schema_version": str(kind.schema_version)},
        "another record": values | {"record": "Nothing"},
        "no name": {key: value for key, value in values.items() if key != "record"},
        "an unknown field": values | {"unknown": 1},
        "a missing field": {key: value for key, value in values.items() if key != absent},
        "nothing": {},
        "a list": [values],
        "a text": json.dumps(values),
        "null": None,
    }
    for what, broken in wrong.items():
        with pytest.raises(ConfigError) as caught:
            kind.from_dict(broken)
        assert kind.__name__ in str(caught.value), what
        assert len(str(caught.value).splitlines()) == 1


EVENT = ProgressEvent("quantize", 1, 2, "bytes")


@pytest.mark.parametrize(
    ("field", "value"),
    [("phase", 3), ("done", "1"), ("done", 1.5), ("done", True), ("done", None), ("total", []), ("detail", None)],
)
def test_a_field_of_another_type_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"ProgressEvent: {field} must be"):
        ProgressEvent.from_dict(EVENT.to_dict() | {field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 5), ("layers", {"a": 1}), ("layers", [5]), ("source", "name"), ("settings", []), ("path", 3)],
)
def test_an_inner_record_of_another_type_is_refused(field: str, value: object) -> None:
    report = any_report()
    with pytest.raises(ConfigError):
        type(report).from_dict(report.to_dict() | {field: value})


def any_report() -> Record:
    from qtoolkit.records import MemoryReport, QuantizationReport

    source = ModelSource("m", None, None, "loaded", "L", "float32", 1, 4, None)
    return QuantizationReport(source, "nf4", {}, "cpu", (), (), (), MemoryReport(1, 4, 1), None, 1)


def test_a_whole_number_is_a_number() -> None:
    """JSON written elsewhere may say 1 for 1.0."""
    report = any_report()
    assert type(report).from_dict(report.to_dict() | {"seconds": 1}) == report


def test_a_record_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        EVENT.done = 5  # type: ignore[misc]
