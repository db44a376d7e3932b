"""Tens of thousands of VideoJobs within seconds: one is created by the API server, its copies are put into etcd.

They are real objects, as the API server stores them, without the minutes of its and our work that creations cost.
"""

import base64
import json
import ssl
import uuid
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from dev.control_plane import Cluster
from tests.bench.bench_control_plane import bounded, server_pid
from videojob.kube.client import Json


async def copy_jobs(cluster: Cluster, namespace: str, name: str, copies: Iterable[tuple[str, Json]]) -> None:
    """Store a copy of the job for each namespace and body: with the body's name, and its spec over the job's own."""
    pki = cluster.folder / "pki"
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "etcd-client.crt", pki / "etcd-client.key")
    async with aiohttp.ClientSession(_etcd(cluster), connector=aiohttp.TCPConnector(ssl=context)) as session:
        found = await _ask(session, "range", {"key": _key(namespace, name)})
        original = json.loads(base64.b64decode(found["kvs"][0]["value"]))
        # Not in transactions: their objects would all have one resourceVersion.
        await bounded(_put(session, original, to, body) for to, body in copies)


async def _put(session: aiohttp.ClientSession, original: Json, namespace: str, body: Json) -> None:
    name = body["metadata"]["name"]
    metadata = original["metadata"] | {"name": name, "namespace": namespace, "uid": str(uuid.uuid4())}
    copy = original | {"metadata": metadata, "spec": original["spec"] | body["spec"]}
    value = base64.b64encode(json.dumps(copy).encode()).decode()
    await _ask(session, "put", {"key": _key(namespace, name), "value": value})


def _key(namespace: str, name: str) -> str:
    return base64.b64encode(f"/registry/videojob.dev/videojobs/{namespace}/{name}".encode()).decode()


def _etcd(cluster: Cluster) -> str:
    """The address of etcd, as the API server was given it."""
    arguments = Path(f"/proc/{server_pid(cluster, 'kube-apiserver')}/cmdline").read_text().split("\0")
    (address,) = (one for one in arguments if one.startswith("--etcd-servers="))
    return address.removeprefix("--etcd-servers=")


async def _ask(session: aiohttp.ClientSession, what: str, request: Json) -> Json:
    async with session.post(f"/v3/kv/{what}", json=request) as answer:
        answer.raise_for_status()
        found: Json = await answer.json()
        return found
