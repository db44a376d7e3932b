"""A module of the benchmarks as a process of its own, with pipes to it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator

from dev.control_plane import Cluster
from dev.processes import die_with_parent
from tests.controller.world import ROOT


@contextlib.asynccontextmanager
async def piped(cluster: Cluster, module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module, which finds the cluster by $KUBECONFIG; it is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        cwd=ROOT,
        env=os.environ | {"KUBECONFIG": str(cluster.kubeconfig), "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent(),
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()
