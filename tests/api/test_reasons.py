"""The table of reasons: complete, consistent, and the one source of what is derived from it."""

import dataclasses

import pytest

from videojob.api.reasons import (
    BACKS_OFF,
    LASTING,
    QUIET,
    REASONS,
    VOLATILE,
    Reason,
    ReasonInfo,
    ResolvedBy,
    Scope,
    of_chunk_error,
    parse,
)
from videojob.triton.contract import ErrorCode


def test_every_reason_has_a_row_and_every_row_a_reason() -> None:
    assert list(REASONS) == list(Reason)


def test_no_column_has_a_default_that_hides_an_omission() -> None:
    for field in dataclasses.fields(ReasonInfo):
        assert field.default is dataclasses.MISSING
        assert field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("reason", Reason)
def test_a_row_is_consistent(reason: Reason) -> None:
    row = REASONS[reason]
    somebody = row.resolved_by in (ResolvedBy.JOB_OWNER, ResolvedBy.ADMINISTRATOR)
    assert row.scope
    assert row.meaning.endswith(".")
    assert row.remedy or not somebody, "what somebody must resolve has a remedy"
    assert somebody or not row.lasting, "what does not pass by itself is resolved by somebody"
    assert not (row.quiet and row.counts), "a failure is worth an Event"
    assert not (row.final and row.backs_off), "what is final has no next attempt"
    assert not row.counts or row.backs_off or row.final, "a failure that is tried again at once fails again"
    assert not row.summarised or Scope.POOL in row.scope
    assert not row.final or row.scope == Scope.ENDED


@pytest.mark.parametrize(
    ("derived", "members"),
    [
        (
            BACKS_OFF,
            "AcceleratorFailed BackingOff ChunkFailed DiskUnavailable OutOfMemory RunnerError StoreCorrupt "
            "StoreUnavailable TritonUnavailable",
        ),
        (QUIET, "BackingOff PoolStarting QueueStopped Queued Stopped"),
        (VOLATILE, "BackingOff CrashLoop ImagePullFailed NodeProvisioningTimeout PoolStarting Queued Unschedulable"),
    ],
)
def test_derived_sets(derived: frozenset[str], members: str) -> None:
    assert sorted(derived) == sorted(members.split())


def test_what_lasts_does_not_pass_as_a_node_on_its_way_does() -> None:
    assert {Reason.IMAGE_PULL_FAILED, Reason.CRASH_LOOP, Reason.NODE_PROVISIONING_TIMEOUT} <= LASTING
    assert not {Reason.UNSCHEDULABLE, Reason.POOL_STARTING, Reason.QUEUED, Reason.MODEL_LOADING} & LASTING


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ErrorCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (ErrorCode.INVALID_REQUEST, Reason.INVALID_REQUEST),
        (ErrorCode.PROMPT_TOO_LONG, Reason.PROMPT_TOO_LONG),
        (ErrorCode.MODEL_FAILED, Reason.CHUNK_FAILED),
        (ErrorCode.OUT_OF_SEQUENCE, Reason.CHUNK_FAILED),
        (ErrorCode.CANCELLED, Reason.CHUNK_FAILED),
    ],
)
def test_the_reason_of_a_chunks_error(code: ErrorCode, reason: Reason) -> None:
    assert of_chunk_error(code) is reason


def test_a_reason_of_another_version_is_none() -> None:
    assert parse("Preempted42") is None
    assert parse("Queued") is Reason.QUEUED
