"""The schemas as pydantic reads them: what a number in quotes may be, names, and the lists of mutable fields."""

import re
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from videojob.api.conditions import ConditionType
from videojob.api.meta import ObjectMeta
from videojob.api.names import MAX_SECONDS, MAX_SEED, Quantity, Seconds, Seed
from videojob.api.schema import immutable_but
from videojob.api.videomodel import VideoModelSpec
from videojob.api.videoqueue import StopPolicy, VideoQueue, VideoQueueSpec, queue_status

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def text_pattern(annotated: Any) -> re.Pattern[str]:
    return re.compile(TypeAdapter(annotated).json_schema()["pattern"])


@pytest.mark.parametrize(
    "text",
    [
        *("0", "0.0", "0.00", ".0", "0.25", ".25", "0.001", "1", "4", "4.0", "4.", "99", "100.5", "599.99", "600"),
        *(
            "999",
            "1000",
            "2999.9",
            "3000",
            "3599.99",
            "3600",
            "3600.0",
            "3600.01",
            "3601",
            "3700",
            "4000",
            "10000",
            "-4",
            "+4",
            "1e2",
            "04",
            "4,5",
            "4s",
            "inf",
            "nan",
            "0x10",
            "",
        ),
    ],
)
def test_a_text_that_the_schema_takes_is_a_length_that_we_take(text: str) -> None:
    taken = text_pattern(Seconds).search(text) is not None
    if taken:
        assert 0 < TypeAdapter(Seconds).validate_python(text) <= MAX_SECONDS
    else:
        plain = re.fullmatch(r"(0|[1-9][0-9]*)?(\.[0-9]+)?", text)
        assert not text or plain is None or not 0 < float(text) <= MAX_SECONDS


@pytest.mark.parametrize("quantity", ["500m", "0.5", "64Gi", "1e3", "12E", 0.5, 4, 1.5e9])
def test_a_quantity_stays_what_it_was(quantity: float | str) -> None:
    assert TypeAdapter(Quantity).validate_python(quantity) == quantity
    if isinstance(quantity, str):
        assert text_pattern(Quantity).search(quantity)


def test_the_largest_seed_is_the_last_that_a_double_can_distinguish_from_the_bound() -> None:
    assert int(float(MAX_SEED)) == MAX_SEED < 2**63
    assert TypeAdapter(Seed).validate_python(MAX_SEED) == MAX_SEED
    with pytest.raises(ValidationError):
        TypeAdapter(Seed).validate_python(MAX_SEED + 1)


def test_all_but_the_mutable_fields_are_immutable() -> None:
    rules = immutable_but(VideoModelSpec, ("limits", "defaults", "drift"), "advice")
    assert [message for _, message, *_ in rules] == [
        f"{field} is immutable: advice"
        for field in (
            *("family", "source", "precision", "components", "adapters", "sampling", "images"),
            *("chunk", "windowLatents", "sinkLatents", "memory", "estimate"),
        )
    ]
    with pytest.raises(ValueError, match="has no window"):
        immutable_but(VideoModelSpec, ("window",), "advice")


@pytest.mark.parametrize("policy", StopPolicy)
def test_a_queue_is_active_or_not_and_never_unready(policy: StopPolicy) -> None:
    queue = VideoQueue(metadata=ObjectMeta(name="q", generation=3), spec=VideoQueueSpec(stop_policy=policy))
    status = queue_status(queue, pending=2, active=1, now=NOW)
    (condition,) = status.conditions
    assert condition.type == ConditionType.ACTIVE
    assert (condition.status, condition.reason) == (
        ("True", "Ready") if policy is StopPolicy.NONE else ("False", "Stopped")
    )
    assert (condition.observed_generation, status.observed_generation) == (3, 3)
    assert (status.pending_jobs, status.active_jobs) == (2, 1)
    again = queue_status(queue.model_copy(update={"status": status}), pending=2, active=1, now=datetime.now(UTC))
    assert again == status
