"""The operator is killed, uninstalled and installed again: pools and jobs go on from what is in the cluster."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from dev.control_plane import NAMESPACE
from tests.controller.world import ROOT, operator_process, until
from tests.kwok.world import LONG, PATIENCE, PoolWorld, replica_of
from videojob.api import FINALIZER
from videojob.api.replica import DRAIN_ANNOTATION
from videojob.kube.client import LEASES


async def test_a_killed_operator_in_the_middle_of_a_scale_down(world: PoolWorld, tmp_path: Path) -> None:
    """The next one goes on with the replica that was asked to drain."""
    log = tmp_path / "operator.log"
    with operator_process(world.cluster, log) as first:
        pool = await world.managed_pool(scaling={"mode": "External"}, replicas=3)
        await world.until_size(pool, 3)
        await world.job(shots=LONG)
        busy = replica_of(await world.until_running())
        world.pod_runners.ignores_drains = True
        await world.scale(pool, 2)

        async def asked() -> set[str] | None:
            found = (await world.client.list(LEASES, NAMESPACE))["items"]
            return {
                lease["metadata"]["ownerReferences"][0]["name"]
                for lease in found
                if DRAIN_ANNOTATION in lease["metadata"].get("annotations", {})
            } or None

        draining = await until(asked, "a replica is asked to drain")
        assert len(draining) == 1
        assert busy not in draining
        first.kill()
    deployment = await world.deployment(pool)
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 3
    world.pod_runners.ignores_drains = False
    with operator_process(world.cluster, log):
        await world.until_size(pool, 2)
        assert not draining & set(await world.pods(pool))
        jobs = await world.until_succeeded()
        world.made_once(*jobs.values())
        assert jobs["job"].status.attempts == 1


async def test_uninstall_and_install_again(world: PoolWorld, tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    with operator_process(world.cluster, log):
        pool = await world.managed_pool(scaling={"maxReplicas": 1})
        await world.job("running", shots=LONG)
        await world.until_running("running")
        await world.job("done")
        await world.job("deleted")
    # The operator is stopped, as by its Deployment's end.
    arguments = ("--namespace", NAMESPACE, "--deployment", "videojob-operator", "--patience-seconds", "60")
    environment = os.environ | {
        "KUBECONFIG": str(world.cluster.kubeconfig),
        "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}",
    }
    uninstall = await _run(environment, "-m", "videojob.controller.uninstall", *arguments)
    assert uninstall.returncode == 0, uninstall.stderr
    assert await world.deployment(pool) is None
    assert await world.pods(pool) == {}
    kept = await world.read("running")
    assert kept is not None
    assert kept.metadata.finalizers == ()
    assert kept.status.assignment is None
    assert kept.status.progress is not None and kept.status.progress.chunks_done > 0
    world.cluster.kubectl("delete", "videojob", "deleted", "--namespace", world.namespace, "--timeout=10s")

    with operator_process(world.cluster, log):
        resumed = await world.until_running("running")
        assert FINALIZER in resumed.metadata.finalizers
        jobs = await world.until_succeeded()
        assert set(jobs) == {"running", "done"}
        world.made_once(*jobs.values())


async def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python, while the runners go on."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, error = await asyncio.wait_for(process.communicate(), PATIENCE)
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out.decode(), error.decode())
