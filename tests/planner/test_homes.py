"""To which pool a job goes back that has been in one: what is there of it is in that pool's store."""

from dataclasses import replace

from tests.planner.builders import begun, book, job, loaded, pool, replica
from tests.planner.deciding import assigned, brief, decided
from videojob.api.replica import ModelState


def test_a_job_with_finished_chunks_stays_with_its_pool() -> None:
    pools = [pool("p"), pool("q")]
    replicas = {"p/r0": replica(slots=1), "q/r0": replica()}
    assert assigned(book(begun(pool="p"), pools=pools, replicas=replicas)) == {"a": "p/r0"}


def test_a_job_without_a_finished_chunk_goes_back_to_its_pool_where_there_is_room() -> None:
    """It may have been paused in the middle of a clip, and what that had come to is in the pool's store."""
    pools = [pool("p"), pool("q")]
    unloaded = replica(slots=1, models=(loaded(state=ModelState.UNLOADED),))
    made = book(begun(pool="q", chunks_done=0), job("b"), pools=pools, replicas={"p/r0": replica(), "q/r0": unloaded})
    assert assigned(made) == {"a": "q/r0", "b": "p/r0"}


def test_a_job_leaves_its_pool_only_after_a_look_into_its_store() -> None:
    """Its status may not say yet what was committed there."""
    pools = [pool("p"), pool("q")]
    replicas = {"p/r0": replica(slots=0), "q/r0": replica()}
    found = begun(pool="p", chunks_done=0)
    assert [brief(one) for one in decided(book(found, pools=pools, replicas=replicas))] == [("LeavePool",)]
    looked = replace(found, pool=None)
    assert assigned(book(looked, pools=pools, replicas=replicas)) == {"a": "q/r0"}
