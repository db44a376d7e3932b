"""REQUEST and reports survive the wire, and what does not make sense is refused with a sentence."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.families import Unit
from videojob.triton.contract import ChunkError, ErrorCode
from videojob.triton.wire import End, Report, Settings, UnitRequest, read_report, read_request

indexes = st.integers(0, 2**31)
spans = st.tuples(indexes, st.integers(1, 500)).map(lambda span: range(span[0], span[0] + span[1]))
units = st.builds(
    Unit,
    index=indexes,
    shot=indexes,
    steps=st.integers(1, 1000),
    latents=spans,
    needs=st.lists(indexes).map(tuple),
    decode=st.lists(indexes).map(tuple),
    frames=spans,
    history=indexes,
)
settings = st.builds(
    Settings,
    prompt=st.text(),
    seed=st.integers(-(2**63), 2**63 - 1),
    width=indexes,
    height=indexes,
    fps=st.floats(allow_nan=False, allow_infinity=False),
    guidance_scale=st.floats(allow_nan=False, allow_infinity=False),
    negative_prompt=st.text(),
)
REQUEST = UnitRequest(
    Unit(1, 0, 4, range(1, 4), (0,), (0,), range(1, 13)), Settings("a cat", 7, 48, 32, 16.0, 1.0), past=(0,)
)


@given(st.builds(UnitRequest, units, settings, st.lists(indexes).map(tuple), st.none() | spans, st.none() | indexes))
def test_a_request_comes_back_as_it_was(request: UnitRequest) -> None:
    assert read_request(request.to_json()) == request


def test_an_end_and_a_report_come_back_as_they_were() -> None:
    assert read_request(End().to_json()) == End()
    for report in (Report(0.25), Report(0.25, 3, 50)):
        assert read_report(report.to_json()) == report


def test_a_report_says_whether_the_unit_was_paused() -> None:
    assert [each.partial for each in (Report(0.25), Report(0.25, 3, 50), Report(0.25, 50, 50))] == [False, True, False]


def changed(**changes: Any) -> bytes:
    """A request with other values, by the path to each."""
    request = json.loads(REQUEST.to_json())
    for path, value in changes.items():
        *parents, name = path.split("__")
        inner = request
        for parent in parents:
            inner = inner[parent]
        inner[name] = value
    return json.dumps(request).encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"{}", "unit: Field required; settings: Field required"),
        (b'{"end": false}', "end: Input should be True"),
        (changed(version=1), "of version 2: version: Input should be 2"),
        (changed(unit__steps=0), "unit.steps: Input should be greater than or equal to 1"),
        (changed(unit__index=-2), "unit.index: Input should be greater than or equal to 0"),
        (changed(unit__latents=[3, 3]), "unit.latents: Value error, it must be a start and a stop beyond it"),
        (changed(unit__frames="all"), "unit.frames: Value error, it must be a start and a stop beyond it"),
        (changed(settings__seed="x"), "settings.seed: Input should be a valid integer"),
        (changed(settings={}), "settings.prompt: Field required"),
    ],
)
def test_what_is_no_request_is_refused_with_what_is_wrong(text: bytes, words: str) -> None:
    with pytest.raises(ChunkError) as raised:
        read_request(text)
    assert raised.value.reason is ErrorCode.INVALID_REQUEST
    assert words in raised.value.sentence
