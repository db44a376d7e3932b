"""A job whose frames are made needs no slot: the next one may come while its video is uploaded."""

from collections.abc import Sequence

import pytest

from tests.planner.builders import book, held, job, replica
from tests.planner.deciding import assigned
from videojob.api.replica import HeldJob
from videojob.planner.facts import Job, Replica


def at(uid: str, *, attempt: int = 1, finishing: bool = True) -> HeldJob:
    return HeldJob(uid=uid, attempt=attempt, finishing=finishing)


def one_slot(*reported: HeldJob) -> Replica:
    return replica(slots=1, jobs=reported)


@pytest.mark.parametrize(
    ("jobs", "reported", "placed"),
    [
        pytest.param([held()], [at("uid-a")], True, id="its frames are made"),
        pytest.param([held()], [at("uid-a", finishing=False)], False, id="they are being made"),
        pytest.param([held()], [], False, id="the report does not name it yet"),
        pytest.param([held(attempts=2)], [at("uid-a")], False, id="an old report, on an attempt before"),
        pytest.param([held()], [at("uid-a", attempt=2)], False, id="of an attempt that is not known yet"),
        pytest.param([], [at("uid-x")], True, id="a job that is not known, and needs no slot"),
        pytest.param([], [at("uid-x", finishing=False)], False, id="a job that is not known, and needs one"),
        pytest.param(
            [held(), held("c")], [at("uid-a"), at("uid-c", finishing=False)], False, id="another one has the slot"
        ),
    ],
)
def test_who_leaves_room(jobs: Sequence[Job], reported: Sequence[HeldJob], placed: bool) -> None:
    made = book(job("b"), *jobs, replicas={"p/r0": one_slot(*reported)})
    assert assigned(made) == ({"b": "p/r0"} if placed else {})


@pytest.mark.parametrize("finishing", [False, True])
def test_it_leaves_its_memory_as_well(finishing: bool) -> None:
    """The model takes 10 bytes, and each job 1."""
    reported = replica(slots=2, memory_bytes=11, jobs=(at("uid-a", finishing=finishing),))
    made = book(job("b"), held(), replicas={"p/r0": reported})
    assert assigned(made) == ({"b": "p/r0"} if finishing else {})
