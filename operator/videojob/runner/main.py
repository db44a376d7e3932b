"""Starts a runner, and turns what stops it into one sentence."""

import asyncio
import logging
import signal
import socket
import sys
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack

from aiohttp import web
from prometheus_client import REGISTRY

from videojob import logs
from videojob.health import serve_health, serve_metrics
from videojob.kube.client import KubeClient
from videojob.kube.connection import configuration
from videojob.runner.clock import Clock
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.options import Options, parse
from videojob.runner.replica import RefusedError, ReplicaRunner

log = logging.getLogger(__name__)


class StartError(Exception):
    """The runner cannot start; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT. Exits with status 1 and a sentence where that is not possible."""
    options = parse(arguments)
    logs.configure(options.log_format, "runner")
    logging.getLogger("kubernetes").setLevel(logging.ERROR)  # It warns of what we log as a sentence.
    try:
        asyncio.run(_run(options))
    except (StartError, RefusedError) as error:
        sys.exit(f"videojob.runner: {error}")
    except Exception as error:
        log.exception("The runner met an error that it does not know")
        sys.exit(f"videojob.runner: {type(error).__name__}: {error}")


async def _run(options: Options) -> None:
    kube = await _connect(options)
    metrics = RunnerMetrics(REGISTRY, options.pool, options.replica)
    if options.metrics_port is not None:
        try:
            await serve_metrics(options.bind_address, options.metrics_port, REGISTRY)
        except OSError as error:
            raise StartError(f"Port {options.metrics_port} cannot serve metrics: {error.strerror}.") from error
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    identity = f"{socket.gethostname()}_{uuid.uuid4()}"
    replica = ReplicaRunner(options, kube, Clock(), metrics, identity)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        if options.health_port is not None:
            probes = await _serve_health(options.bind_address, options.health_port, replica)
            stack.push_async_callback(probes.cleanup)
        await replica.run(stopping)


async def _serve_health(host: str, port: int, replica: ReplicaRunner) -> web.AppRunner:
    try:
        return await serve_health(host, port, replica.live, replica.ready)
    except OSError as error:
        raise StartError(f"Port {port} cannot serve probes: {error.strerror}.") from error


async def _connect(options: Options) -> KubeClient:
    try:
        options.repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"The folder {options.repository} cannot be made: {error.strerror}.") from error
    try:
        return KubeClient(await configuration(options.kubeconfig))
    except Exception as error:  # The library raises whatever it stumbles over in a malformed file.
        if options.kubeconfig is None:
            raise StartError("There is no cluster: set KUBECONFIG to a kubeconfig file, or run it in a pod.") from error
        raise StartError(f"KUBECONFIG names {options.kubeconfig}, which cannot be used: {error}") from error
