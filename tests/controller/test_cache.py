"""Late events, early answers, and objects that vanish."""

from typing import Any

import pytest

from videojob.api import MANAGER
from videojob.controller.cache import Cache
from videojob.kube.client import GPU_POOLS, VIDEO_JOBS, VIDEO_QUEUES, Json
from videojob.planner.snapshot import QueueKey


class Counting:
    def __init__(self) -> None:
        self.changes = 0
        self.seeds = iter(range(100))
        self.cache = Cache(lambda: next(self.seeds), self._changed)

    def _changed(self) -> None:
        self.changes += 1


def body(version: int, phase: str = "Pending", uid: str = "u", **changes: Any) -> Json:
    return {
        "metadata": {
            "name": "a",
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": "2026-11-22T12:00:00Z",
            **changes.get("metadata", {}),
        },
        "spec": {"model": "tiny", "shots": [{"prompt": "x", "seconds": 1}], **changes.get("spec", {})},
        "status": {"phase": phase, **changes.get("status", {})},
    }


def queue(version: int, uid: str = "q", policy: str = "None") -> Json:
    metadata = {"name": "default", "namespace": "team", "uid": uid, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"stopPolicy": policy}}


def phases(cache: Cache) -> list[str]:
    return [job.phase.value for job in cache.snapshot().jobs]


def test_a_late_event_changes_nothing() -> None:
    counting = Counting()
    counting.cache.apply(VIDEO_JOBS, body(10, "Running"))
    counting.cache.apply(VIDEO_JOBS, body(9, "Pending"))
    counting.cache.apply(VIDEO_JOBS, body(10, "Running"))
    assert phases(counting.cache) == ["Running"]
    assert counting.changes == 1


def test_the_answer_to_a_write_does_not_bring_back_an_object_that_is_gone() -> None:
    cache = Counting().cache
    cache.apply(VIDEO_JOBS, body(10))
    cache.apply(VIDEO_JOBS, body(11), deleted=True)
    cache.apply(VIDEO_JOBS, body(12), insert=False)
    assert phases(cache) == []
    assert not cache.counts


def test_a_finished_job_is_counted_and_otherwise_forgotten() -> None:
    cache = Counting().cache
    cache.apply(VIDEO_JOBS, body(10))
    cache.apply(VIDEO_JOBS, body(11, "Succeeded"))
    assert phases(cache) == []
    assert [(labels.phase.value, count) for labels, count in cache.counts.items()] == [("Succeeded", 1)]
    cache.apply(VIDEO_JOBS, body(9))
    assert phases(cache) == [], "not even a late event wakes it up"


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"metadata": {"deletionTimestamp": "2026-11-22T12:00:00Z"}}, id="while it is deleted"),
        pytest.param(
            {"spec": {"ttlSecondsAfterFinished": 5}, "status": {"completionTime": "2026-11-22T12:00:00Z"}},
            id="while it has a time to live",
        ),
    ],
)
def test_a_finished_job_is_planned_for(changes: Json) -> None:
    cache = Counting().cache
    cache.apply(VIDEO_JOBS, body(10, "Succeeded", **changes))
    assert phases(cache) == ["Succeeded"]


def test_a_seed_is_drawn_once() -> None:
    cache = Counting().cache
    cache.apply(VIDEO_JOBS, body(10))
    cache.apply(VIDEO_JOBS, body(11))
    cache.apply(VIDEO_JOBS, body(12, uid="v"))
    cache.apply(VIDEO_JOBS, body(13, uid="w", spec={"seed": 7}))
    assert [job.seed for job in cache.snapshot().jobs] == [0, 1, 7]


@pytest.mark.parametrize(("manager", "known"), [(MANAGER, 1), ("example.com/other", 0)])
def test_jobs_of_others_are_not_known(manager: str, known: int) -> None:
    cache = Counting().cache
    cache.apply(VIDEO_JOBS, body(10, spec={"managedBy": manager}))
    assert len(cache.snapshot().jobs) == known


def test_an_object_that_cannot_be_read_harms_no_other() -> None:
    cache = Counting().cache
    cache.apply(VIDEO_JOBS, body(10, "NoSuchPhase"))
    cache.apply(GPU_POOLS, {"metadata": {"name": "p", "uid": "p", "resourceVersion": "1"}, "spec": {}})
    cache.apply(VIDEO_JOBS, body(11, uid="v"))
    assert phases(cache) == ["Pending"]


def test_a_late_deletion_does_not_remove_a_successor_of_the_same_name() -> None:
    cache = Counting().cache
    cache.apply(VIDEO_QUEUES, queue(10, uid="old"))
    cache.apply(VIDEO_QUEUES, queue(12, uid="new", policy="Hold"))
    cache.apply(VIDEO_QUEUES, queue(11, uid="old"), deleted=True)
    assert cache.queues[QueueKey("team", "default")].metadata.uid == "new"


def held(version: int, chunks: int, seconds: float, *, attempts: int = 1, replica: str = "r0", uid: str = "u") -> Json:
    status = {
        "attempts": attempts,
        "assignment": {"pool": "p", "replica": replica},
        "progress": {"chunksDone": chunks},
        "timing": {"runningSeconds": seconds},
    }
    return body(version, "Running", uid, status=status)


def test_what_chunks_took_is_told_with_the_number_of_jobs_on_the_replica() -> None:
    told: list[tuple[int, float, int]] = []
    cache = Cache(
        lambda: 0,
        lambda: None,
        progressed=lambda old, new, sharing: told.append(
            (new.chunks_done - old.chunks_done, new.running_seconds - old.running_seconds, sharing)
        ),
    )
    cache.apply(VIDEO_JOBS, held(1, 0, 0.0))
    cache.apply(VIDEO_JOBS, held(2, 2, 6.0))
    cache.apply(VIDEO_JOBS, held(3, 2, 6.5))
    cache.apply(VIDEO_JOBS, held(4, 1, 1.0, uid="other"))
    cache.apply(VIDEO_JOBS, held(5, 3, 12.5))
    cache.apply(VIDEO_JOBS, held(6, 4, 20.0, attempts=2))
    assert told == [(2, 6.0, 1), (1, 6.0, 2)]


def test_an_end_is_told_once() -> None:
    told: list[str] = []
    cache = Cache(lambda: 0, lambda: None, ended=lambda job: told.append(job.status.phase.value))
    cache.apply(VIDEO_JOBS, body(1, "Succeeded", "known only after its end"))
    cache.apply(VIDEO_JOBS, body(2, "Running"))
    for version in (3, 4):
        cache.apply(VIDEO_JOBS, body(version, "Failed", spec={"ttlSecondsAfterFinished": 60}))
    assert told == ["Failed"]


@pytest.mark.parametrize(("namespace", "known"), [(None, ["all"]), ("team", ["theirs"])])
def test_an_operator_serves_the_pools_that_are_meant_for_it(namespace: str | None, known: list[str]) -> None:
    cache = Cache(lambda: 0, lambda: None, namespace=namespace)
    for name, more in (("all", {}), ("theirs", {"operatorNamespace": "team"}), ("others", {"operatorNamespace": "b"})):
        spec = {"accelerator": "cpu", "models": ["tiny"], "store": {"url": "file:///store"}, **more}
        cache.apply(GPU_POOLS, {"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": spec})
    assert [*cache.snapshot().pools] == known


def test_a_finished_job_whose_files_nothing_holds_is_remembered() -> None:
    cache = Cache(lambda: 0, lambda: None)
    cache.apply(VIDEO_JOBS, body(1, "Cancelled", status={"storeURI": "file:///store/team/u"}))
    assert [job.lacks_finalizer for job in cache.snapshot().jobs] == [True]
