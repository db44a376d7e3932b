"""kopf as an event shell: it watches and reconnects; every event goes straight into the cache.

Only low-level handlers are used: they keep no state on the objects (no annotations, no finalizer of kopf's) and run for
every event. No handler writes, waits or decides.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import kopf
from kubernetes.aio.client.configuration import Configuration

from videojob.api import GROUP, VERSION
from videojob.controller.cache import KINDS
from videojob.kube.client import Json, ResourceKind

IDENTITY: Any = "videojob-operator"
Seen = Callable[[ResourceKind, str, Json], None]
"""Called for each event with kind, type (LISTED, ADDED, MODIFIED, DELETED) and object."""


def watchers(namespace: str | None) -> set[str]:
    """Names that kopf gives the tasks of its watches."""
    return {f"watcher for {kind.plural}.{VERSION}.{GROUP}@{namespace if kind.namespaced else None}" for kind in KINDS}


class _NoEssence(kopf.DiffBaseStorage):
    """kopf keeps no copy of the objects: only handlers of changes, which are not used, need one."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return {}  # type: ignore[typeddict-item,unused-ignore]

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        return None


def shell_settings() -> kopf.OperatorSettings:
    """Kopf's settings: each that differs from its default has a reason."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our Events are our own
    settings.scanning.disabled = True  # kinds are known: no right to watch CRDs and namespaces is needed
    settings.queueing.worker_limit = None  # a limit below the number of objects deadlocks (kopf issue 1243)
    settings.queueing.idle_timeout = 1.0  # a worker per object costs memory for as long as it idles
    settings.watching.chunk_size = 500  # bounds the memory of a listing
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 360
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 90  # bookmarks come about once a minute
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.process.ultimate_exiting_timeout = 60
    settings.persistence.diffbase_storage = _NoEssence()
    return settings


def shell_registry(configuration: Configuration, seen: Seen) -> kopf.OperatorRegistry:
    """Kopf's handlers."""
    # Not the default registry: that one would log in through the synchronous client, whose import takes 40 MB.
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _connection(configuration)

    for kind in KINDS:
        _watch(registry, kind, seen)
    return registry


async def watch(
    configuration: Configuration, seen: Seen, stop: asyncio.Event, ready: asyncio.Event, namespace: str | None
) -> None:
    """Run kopf until `stop` is set, on one namespace or on all.

    It ends by itself only when a watch has failed for good.
    """
    logging.getLogger("kopf").setLevel(logging.WARNING)
    await kopf.operator(
        registry=shell_registry(configuration, seen),
        settings=shell_settings(),
        clusterwide=namespace is None,
        namespaces=() if namespace is None else (namespace,),
        standalone=True,
        # Peering is off, but kopf would still ask for the user's name, and fail where the uid has none.
        identity=IDENTITY,
        stop_flag=stop,
        ready_flag=ready,
    )


def dead_watches(namespace: str | None) -> set[str]:
    """Names of watches that have ended, although kopf still runs (kopf issue 1276)."""
    return watchers(namespace) - {task.get_name() for task in asyncio.all_tasks() if not task.done()}


def _watch(registry: kopf.OperatorRegistry, kind: ResourceKind, seen: Seen) -> None:
    @kopf.on.event(GROUP, VERSION, kind.plural, registry=registry, id=kind.plural)
    async def handle(event: kopf.RawEvent, **_: Any) -> None:
        seen(kind, event["type"] or "LISTED", dict(event["object"]))


async def _connection(configuration: Configuration) -> kopf.ConnectionInfo:
    header = await configuration.get_api_key_with_prefix("BearerToken")
    scheme, _, token = (header or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        username=configuration.username or None,
        password=configuration.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
    )
