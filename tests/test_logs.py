"""Every record has time, level, logger, message and job."""

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from videojob.logs import about, configure

log = logging.getLogger("videojob.test")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was before the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_json_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "runner")
    log.warning("The model %s — lost.", "tiny")

    (record,) = lines(capsys)

    written = datetime.fromisoformat(str(record.pop("time")))
    assert abs((datetime.now(UTC) - written).total_seconds()) < 60
    assert record == {
        "level": "WARNING",
        "logger": "videojob.test",
        "message": "The model tiny — lost.",
        "component": "runner",
    }


async def test_a_record_names_its_job_in_tasks_and_threads_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("json", "runner")

    async def work() -> None:
        log.info("task")
        await asyncio.to_thread(log.info, "thread")

    async def job(name: str, attempt: int) -> None:
        with about(f"uid-{name}", "team", name, attempt):
            await asyncio.create_task(work())

    await asyncio.gather(job("a", 1), job("b", 2))
    log.info("nobody's")

    *those, last = lines(capsys)
    fields = {(r["message"], r["job_uid"], r["job_namespace"], r["job_name"], r["attempt"]) for r in those}
    assert fields == {
        ("task", "uid-a", "team", "a", 1),
        ("thread", "uid-a", "team", "a", 1),
        ("task", "uid-b", "team", "b", 2),
        ("thread", "uid-b", "team", "b", 2),
    }
    assert "job_uid" not in last


def test_what_a_caller_adds_is_a_field_and_what_kopf_adds_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "operator")
    with about("uid", "team", "a", 1):
        log.info("other", extra={"attempt": 7, "pool": "gpu", "settings": object(), "k8s_skip": True})

    (record,) = lines(capsys)
    assert (record["attempt"], record["job_uid"], record["pool"]) == (7, "uid", "gpu")
    assert not {"settings", "k8s_skip"} & set(record)


def test_an_exception_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "runner")
    try:
        Path("/dev/full").write_text("text")
    except OSError:
        log.exception("The store failed")

    (record,) = lines(capsys)
    assert record["message"] == "The store failed"
    assert "OSError: [Errno 28]" in str(record["exc_info"])


def test_text_is_a_line_with_the_job_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    configure("text", "runner")
    log.info("plain")
    with about("uid", "team", "a", 3):
        log.info("about a job")

    plain, job = capsys.readouterr().err.splitlines()
    assert plain.endswith("INFO    videojob.test: plain")
    assert job.endswith("INFO    videojob.test: about a job [team/a #3]")
