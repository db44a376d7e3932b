"""The statuses of pools and queues."""

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.planner.builders import MOMENT, MONO, NOW, begun, book, held, job, loaded, model, pool, queue, replica
from tests.planner.pool_world import queues, statuses
from videojob.api.conditions import ConditionType, find
from videojob.api.gpupool import GPUPoolStatus
from videojob.api.reasons import Reason
from videojob.api.replica import ModelState
from videojob.api.videoqueue import VideoQueueStatus
from videojob.planner.book import Book
from videojob.planner.facts import Moment, QueueKey


def pool_status(found: Book) -> GPUPoolStatus:
    """What the status of pool p is to become."""
    (decision,) = [one for one in statuses(found) if one.pool.metadata.name == "p"]
    return decision.status


def queue_status(found: Book) -> VideoQueueStatus:
    """What the status of the queue default is to become."""
    (decision,) = [one for one in queues(found) if one.queue.metadata.name == "default"]
    return decision.status


@pytest.mark.parametrize(
    ("found", "ready", "reason"),
    [
        pytest.param(book(), True, Reason.READY, id="a replica with its model"),
        pytest.param(book(replicas={}), False, Reason.REPLICAS_UNAVAILABLE, id="no heartbeat"),
        pytest.param(book(models=[]), False, Reason.MODEL_NOT_FOUND, id="no model"),
        pytest.param(
            book(models=[model(precision="bfloat16")]),
            False,
            Reason.PRECISION_UNSUPPORTED,
            id="only bfloat16 models",
        ),
        pytest.param(book(replicas={"p/r0": replica(models=())}), False, Reason.MODEL_LOADING, id="loading"),
        pytest.param(
            book(replicas={"p/r0": replica(models=(loaded(state=ModelState.FAILED, message="no such file"),))}),
            False,
            Reason.MODEL_LOAD_FAILED,
            id="does not load",
        ),
        pytest.param(
            book(replicas={"p/r0": replica(store_error="disk full")}),
            False,
            Reason.STORE_UNAVAILABLE,
            id="no store",
        ),
        pytest.param(
            book(replicas={"p/r0": replica(triton_error="gone")}), False, Reason.TRITON_UNAVAILABLE, id="no Triton"
        ),
        pytest.param(
            book(replicas={"p/r0": replica(accelerator_error="It fails whatever it gets.")}),
            False,
            Reason.ACCELERATOR_FAILED,
            id="a broken accelerator",
        ),
        pytest.param(book(replicas={"p/r0": replica(draining=True)}), False, Reason.DRAINED, id="draining"),
    ],
)
def test_a_pool_is_ready_or_has_the_reason_why_not(found: Book, ready: bool, reason: Reason) -> None:
    condition = find(pool_status(found).conditions, ConditionType.READY)
    assert condition is not None
    assert (condition.status == "True", condition.reason) == (ready, reason.value)


def test_counts() -> None:
    found = book(
        held("a"),
        job("b"),
        job("c", suspend=True),
        begun("d", reason="ChunkFailed", failures=1, since=NOW),
        job("e", queue="other"),
        pools=[pool(replicas=("r0", "r1"))],
        replicas={"p/r0": replica(slots=8), "p/r1": replica(live=False)},
        busy=["uid-b"],
    )
    status = pool_status(found)
    assert (status.replicas, status.ready_replicas, status.running_jobs, status.slots) == (2, 1, 1, 2)
    queue = queue_status(found)
    assert (queue.pending_jobs, queue.active_jobs) == (2, 1)


def shown(found: Book) -> Book:
    """The book, once every status was written."""
    for one in statuses(found):
        metadata = one.pool.metadata.model_copy(update={"resource_version": "2"})
        found.put_pool(one.pool.model_copy(update={"metadata": metadata, "status": one.status}))
    for other in queues(found):
        metadata = other.queue.metadata.model_copy(update={"resource_version": "2"})
        found.put_queue(other.queue.model_copy(update={"metadata": metadata, "status": other.status}))
    return found


def test_nothing_is_written_where_nothing_changed() -> None:
    found = shown(book(held()))
    later = Moment(NOW + timedelta(seconds=5), MONO + 5)
    assert statuses(found, later) == []
    assert queues(found, later) == []
    found.put_job(replace(held(), chunks_done=3, version=2))
    assert queues(found, later) == []
    assert [one.status.backlog_seconds for one in statuses(found, later)] == [20]


def test_nothing_is_written_while_a_write_is_under_way() -> None:
    found = book(held())
    (pool_decision,) = statuses(found)
    (queue_decision,) = queues(found)
    found.begin(pool_decision)
    found.begin(queue_decision)
    found.drop_job("uid-a")
    assert (statuses(found), queues(found)) == ([], [])
    found.end(pool_decision)
    found.end(queue_decision)
    assert [one.status.running_jobs for one in statuses(found)] == [0]
    assert [one.status.active_jobs for one in queues(found)] == [0]


def test_the_status_of_what_cannot_be_read_stays() -> None:
    found = book(held())
    found.put_unreadable("gpupools", "uid-p", "bad")
    found.put_unreadable("videoqueues", "uid-q-default", "bad")
    assert (statuses(found), queues(found)) == ([], [])


@pytest.mark.parametrize(
    ("stop", "active", "reason"),
    [("None", True, Reason.READY), ("Hold", False, Reason.STOPPED), ("HoldAndDrain", False, Reason.STOPPED)],
)
def test_a_stopped_queue_is_not_active_and_has_no_condition_ready(stop: str, active: bool, reason: Reason) -> None:
    """`helm upgrade --wait` and kstatus wait for Ready, and a queue that somebody holds is healthy."""
    conditions = queue_status(book(stop=stop)).conditions
    condition = find(conditions, ConditionType.ACTIVE)
    assert condition is not None
    assert (condition.status == "True", condition.reason) == (active, reason.value)
    assert find(conditions, ConditionType.READY) is None


def test_every_queue_has_its_own_counts() -> None:
    found = book(
        held("a", queue="x"),
        job("b", queue="x"),
        job("c", queue="y"),
        job("d", queue="y", model="missing"),
        job("e", queue="y", seconds=61.0),
        queues=[queue(name="x"), queue("Hold", name="y"), queue(name="z")],
    )
    counts = {
        QueueKey(one.queue.metadata.namespace, one.queue.metadata.name): (
            one.status.pending_jobs,
            one.status.active_jobs,
        )
        for one in queues(found, MOMENT)
    }
    assert counts == {("team", "x"): (1, 1), ("team", "y"): (3, 0), ("team", "z"): (0, 0)}
