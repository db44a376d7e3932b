"""Operators that die, hang or come in pairs: as real processes, with the times that they have in production."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dev import control_plane as local
from dev.control_plane import NAMESPACE, Cluster
from dev.supervisor import Supervisor
from tests.controller.stub_runner import finish
from tests.controller.world import REAL, ROOT, OperatorProcess, World, operator_process, until
from videojob.controller.election import LEASE_NAME
from videojob.kube.client import LEASES, VIDEO_JOBS

TAKEOVER_SECONDS = 15


async def test_of_two_operators_one_writes_and_the_other_takes_over(
    world: World, cluster: Cluster, tmp_path: Path
) -> None:
    await world.everything()
    with (
        operator_process(cluster, tmp_path / "first.log", REAL) as first,
        operator_process(cluster, tmp_path / "second.log", REAL) as second,
    ):
        leader, follower = await ranked(first, second)
        await world.job("before")
        await world.phase("Succeeded", "before")
        assert await follower.metric("videojob_operator_api_writes_total") == 0
        assert await follower.metric("videojob_jobs", namespace=world.namespace) == 1, "followers keep warm caches"

        leader.kill()
        killed = asyncio.get_running_loop().time()
        await world.job("after")
        await world.becomes(lambda job: job.status.attempts == 1, "the other operator writes", "after")
        assert asyncio.get_running_loop().time() - killed < TAKEOVER_SECONDS
        await world.phase("Succeeded", "after")


async def test_a_leader_that_hung_does_not_write_over_its_successor(
    world: World, cluster: Cluster, tmp_path: Path
) -> None:
    await world.everything()
    with (
        operator_process(cluster, tmp_path / "first.log") as first,
        operator_process(cluster, tmp_path / "second.log") as second,
    ):
        leader, follower = await ranked(first, second)
        leader.pause()
        try:
            await world.job("meanwhile")
            await world.phase("Succeeded", "meanwhile")
        finally:
            leader.resume()

        async def follows() -> bool | None:
            return True if await leader.metric("videojob_operator_leader") == 0 else None

        await until(follows, "the operator that hung follows")
        before = await leader.metric("videojob_operator_api_writes_total", code="200")
        await world.job("later")
        job = await world.phase("Succeeded", "later")
        assert job.status.attempts == 1
        assert await leader.metric("videojob_operator_api_writes_total", code="200") == before
        assert await follower.metric("videojob_operator_leader") == 1


async def test_a_leader_that_is_stopped_hands_over_at_once(world: World, cluster: Cluster, tmp_path: Path) -> None:
    with operator_process(cluster, tmp_path / "operator.log", REAL) as operator:

        async def leads() -> bool | None:
            return True if await operator.metric("videojob_operator_leader") == 1 else None

        await until(leads, "the operator leads")
        assert operator.terminate() == 0
    lease = await world.client.get(LEASES, LEASE_NAME, NAMESPACE)
    assert lease["spec"]["holderIdentity"] == ""


async def test_killing_the_operator_at_any_moment_loses_nothing(world: World, cluster: Cluster, tmp_path: Path) -> None:
    """Operators are killed again and again while jobs run; every job ends, each attempt on one replica."""
    chance = random.Random(7)
    runner = await world.everything("r0", "r1", behave=finish, slots=2)
    total = 60
    for index in range(total):
        await world.job(f"job-{index}")

    async def finished() -> bool | None:
        selector = "status.phase=Succeeded"
        listing = await world.client.list(VIDEO_JOBS, world.namespace, fieldSelector=selector)
        return True if len(listing["items"]) == total else None

    for round_ in range(20):
        with operator_process(cluster, tmp_path / f"{round_}.log") as operator:

            async def wrote(operator: OperatorProcess = operator, enough: int = chance.randint(1, 12)) -> bool | None:
                writes = await operator.metric("videojob_operator_api_writes_total", kind="videojobs")
                return True if writes >= enough or await finished() else None

            await until(wrote, "the operator writes")
            if await finished():
                break
            operator.kill()
    with operator_process(cluster, tmp_path / "last.log") as operator:
        await until(finished, f"all {total} jobs have succeeded")
    attempts = [(name, attempt) for name, attempt, _ in runner.seen]
    assert len(attempts) == len(set(attempts)) == total, "no job was assigned twice"


@pytest.mark.parametrize("missing", ["resources", "rights", "server", "credentials"])
def test_an_operator_that_cannot_run_exits_with_a_sentence(tmp_path: Path, missing: str) -> None:
    supervisor = Supervisor(tmp_path)
    try:
        if missing == "credentials":
            kubeconfig = tmp_path / "nothing"
            sentence = "There are no usable credentials in the kubeconfig"
        else:
            cluster = local.start(supervisor)
            kubeconfig = cluster.kubeconfig
            if missing == "rights":
                cluster.install()
                account = {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": "nobody", "namespace": NAMESPACE},
                }
                cluster.apply(account)
                kubeconfig = cluster.service_account("nobody")
            if missing == "server":
                supervisor.stop()
            sentence = {
                "resources": "does not know the resources of videojob.dev: apply manifests/crds first.",
                "rights": "does not let the operator in: apply manifests/rbac",
                "server": "The API server does not answer",
            }[missing]
        ended = subprocess.run(
            [sys.executable, *REAL],
            cwd=ROOT,
            env={"KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT / "operator")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        supervisor.stop()
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("videojob-operator: ")]
    assert sentence in line
    assert "Traceback" not in ended.stderr


async def ranked(*operators: OperatorProcess) -> tuple[OperatorProcess, OperatorProcess]:
    """The leader and the follower."""

    async def look() -> tuple[OperatorProcess, OperatorProcess] | None:
        leads = [await operator.metric("videojob_operator_leader") for operator in operators]
        if sum(leads) != 1:
            return None
        first, second = operators
        return (first, second) if leads[0] else (second, first)

    return await until(look, "one operator leads")
