"""How pools and queues say they are."""

import pytest

from tests.planner.builders import NOW, ago, held, job, loaded, model, pool, replica, snapshot
from videojob.api.conditions import ConditionType, Reason, find
from videojob.api.replica import ModelState
from videojob.planner.snapshot import QueueKey, Snapshot
from videojob.planner.summary import summarise


@pytest.mark.parametrize(
    ("found", "ready", "reason"),
    [
        pytest.param(snapshot(), True, Reason.READY, id="a replica with its model"),
        pytest.param(snapshot(replicas={}), False, Reason.NO_REPLICA, id="no heartbeat"),
        pytest.param(snapshot(models=[]), False, Reason.MODEL_NOT_FOUND, id="no model"),
        pytest.param(
            snapshot(models=[model(precision="bfloat16")]),
            False,
            Reason.PRECISION_UNSUPPORTED,
            id="only bfloat16 models",
        ),
        pytest.param(snapshot(replicas={"p/r0": replica(models=())}), False, Reason.MODEL_LOADING, id="loading"),
        pytest.param(
            snapshot(replicas={"p/r0": replica(models=(loaded(state=ModelState.FAILED, message="no such file"),))}),
            False,
            Reason.MODEL_LOAD_FAILED,
            id="does not load",
        ),
        pytest.param(
            snapshot(replicas={"p/r0": replica(store_error="disk full")}),
            False,
            Reason.STORE_UNAVAILABLE,
            id="no store",
        ),
        pytest.param(
            snapshot(replicas={"p/r0": replica(triton_error="gone")}), False, Reason.TRITON_UNAVAILABLE, id="no Triton"
        ),
        pytest.param(snapshot(replicas={"p/r0": replica(draining=True)}), False, Reason.DRAINED, id="draining"),
    ],
)
def test_a_pool_says_whether_it_can_be_used(found: Snapshot, ready: bool, reason: Reason) -> None:
    condition = find(summarise(found, NOW).pools["p"].conditions, ConditionType.READY)
    assert condition is not None
    assert (condition.status == "True", condition.reason) == (ready, reason.value)


def test_counts() -> None:
    found = snapshot(
        held("a"),
        job("b"),
        job("c", suspend=True),
        pools=[pool(replicas=("r0", "r1"))],
        replicas={"p/r0": replica(slots=8), "p/r1": replica(live=False)},
    )
    summary = summarise(found, NOW)
    told = summary.pools["p"]
    assert (told.replicas, told.ready_replicas, told.running_jobs, told.slots) == (2, 1, 1, 2)
    queue = summary.queues[QueueKey("team", "default")]
    assert (queue.pending_jobs, queue.active_jobs) == (1, 1)


def test_nothing_changes_where_nothing_changed() -> None:
    found = snapshot(held())
    first = summarise(found, ago(60))
    told = found.pools["p"].model_copy(update={"status": first.pools["p"]})
    again = summarise(snapshot(held(), pools=[told]), NOW)
    assert again.pools["p"] == first.pools["p"]
