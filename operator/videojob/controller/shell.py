"""kopf as an event shell: it watches kinds that people apply; every event goes straight to the caller.

Only low-level handlers are used: they keep no state on the objects (no annotations, no finalizer of kopf's) and run for
every event. No handler writes, waits or decides.

This is the one place that knows what kopf does to a process that is more than a kopf operator:

- It takes SIGTERM and SIGINT when it starts. They are given back at once.
- `kopf.operator()` and `kopf.run_tasks()` cancel, at their end, every task that began after them, whoever began it.
  So `kopf.spawn_tasks()` is used, and what is left of it is ended here: tasks that run kopf's code.
- A line of a watch that is no JSON, an event without metadata, an error other than 410 and a refusal end it, and a
  watch whose task is cancelled ends without a word (kopf issue 1276). It is started again in place, and lists all.
- It shows neither when a listing begins or ends, nor bookmarks, nor whether a watch is alive. The HTTP session is ours
  and shows all of that: a watch is begun again every minute, so one that does not even try any more is dead.
- Objects that vanished while it was disconnected are never reported: `on_relist` is where to compare.
"""

import asyncio
import logging
import math
import signal
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import kopf
from kubernetes.aio.client.configuration import Configuration

from videojob.api import GROUP, VERSION
from videojob.kube.client import Json, Reachability, ResourceKind
from videojob.kube.connection import refuse_redirects, trust_again

logger = logging.getLogger(__name__)

IDENTITY: Any = "videojob-operator"
"""Peering is off, but kopf would still ask for the user's name, and fail where the uid has none."""
Seen = Callable[[ResourceKind, str, Json], None]
"""Called for each event with kind, type (LISTED, ADDED, MODIFIED, DELETED) and object."""
Relisted = Callable[[ResourceKind, bool], None]
"""Called with the kind after each listing of it, and whether it was the first; the last objects are still to come."""

CANCEL_SECONDS = 0.5
_KOPF_CODE = str(Path(kopf.__file__).parent)


@dataclass(frozen=True)
class ShellTiming:
    """The shell's times, in seconds."""

    pause: float = 1.0
    """Before kopf is started again; it doubles with each end in a row, up to the limit."""
    pause_limit: float = 30.0
    settled: float = 60.0
    """A kopf that ran for so long was no failure in a row."""
    silence: float = 150.0
    """A watch that has neither tried nor brought anything for so long is dead; it is begun again every minute."""
    check: float = 5.0
    """Between looks for dead watches."""
    exit: float = 10.0
    """kopf may take so long to end, then it is left."""


def silence(kind: ResourceKind, proved: float, now: float, limit: float, trouble: str) -> str | None:
    """What is wrong with a watch that has not proved itself for longer than `limit` seconds, as a sentence."""
    if now - proved <= limit:
        return None
    since = "has not begun" if math.isinf(proved) else f"has brought nothing for {now - proved:.0f} s"
    return f"The watch of {kind.plural} {since}{trouble and f' ({trouble})'}."


class Shell:
    """Runs kopf on one namespace or on all, and starts it again where it ends or a watch is dead."""

    def __init__(
        self,
        configuration: Configuration,
        namespace: str | None,
        kinds: Collection[ResourceKind],
        seen: Seen,
        on_relist: Relisted,
        *,
        restarted: Callable[[str], None],
        signals: Mapping[signal.Signals, Callable[[], object]],
        contact: Reachability,
        monotonic: Callable[[], float],
        draw: Callable[[], float],
        timing: ShellTiming = ShellTiming(),
    ) -> None:
        """`restarted` is called with the reason before each new start; `signals` are the process's own handlers.

        `draw` gives random numbers from 0 to 1.
        """
        self._configuration = configuration
        self._namespace = namespace
        self._seen = seen
        self._on_relist = on_relist
        self._restarted = restarted
        self._signals = signals
        self._contact = contact
        self._monotonic = monotonic
        self._draw = draw
        self._timing = timing
        prefix = urlsplit(configuration.host).path.rstrip("/")  # Some gateways serve many clusters under one name.
        self._kinds = {prefix + kind.path(namespace): kind for kind in kinds}
        self._tried: dict[ResourceKind, float] = {}
        self._listing: set[ResourceKind] = set()
        self._listed: set[ResourceKind] = set()
        self._sessions: list[aiohttp.ClientSession] = []
        self._context: ssl.SSLContext | None = None
        """Of the newest session."""
        self._trouble = ""
        self._offered: str | None = None
        self._offers = 0
        """How often credentials were offered since the last answer of a listing or watch."""
        self.proved: dict[ResourceKind, float] = dict.fromkeys(kinds, -math.inf)
        """When each watch last proved itself, on the monotonic clock: it was asked for and begun, or an event came."""

    async def run(self) -> None:
        """Run, until cancelled."""
        failures = 0
        while True:
            began = self._monotonic()
            try:
                reason = await self._once()
            except Exception as error:
                logger.exception("kopf could not be run")
                reason = f"{type(error).__name__}: {error}"
            if self._monotonic() - began >= self._timing.settled:
                failures = 0
            pause = self._backoff(failures)
            failures += 1
            self._trouble = reason
            self._restarted(reason)
            logger.warning("The watches of %s ended, and are begun again: %s", GROUP, reason)
            await asyncio.sleep(pause)

    def _backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row before the last one."""
        pause = min(self._timing.pause * 2.0 ** min(failures, 16), self._timing.pause_limit)
        return pause * (0.5 + self._draw() / 2)

    def healthy(self) -> str | None:
        """What is wrong with the watches, as a sentence; None while each has proved itself lately."""
        now, limit = self._monotonic(), self._timing.silence
        silences = (silence(kind, proved, now, limit, self._trouble) for kind, proved in self.proved.items())
        return next(filter(None, silences), None)

    async def _once(self) -> str:
        """Run kopf until it ends or a watch is dead; the reason."""
        stop = asyncio.Event()
        logging.getLogger("kopf").setLevel(logging.WARNING)
        self._tried = dict.fromkeys(self._kinds.values(), self._monotonic())
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            clusterwide=self._namespace is None,
            namespaces=() if self._namespace is None else (self._namespace,),
            standalone=True,
            identity=IDENTITY,
            stop_flag=stop,
        )
        # kopf has taken them in this very turn of the loop: none can have come to it.
        for number, handler in self._signals.items():
            asyncio.get_running_loop().add_signal_handler(number, handler)
        try:
            while True:
                done, _ = await asyncio.wait(tasks, timeout=self._timing.check, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return _why(done)
                if dead := self._dead():
                    return f"the watch of {dead.plural} is dead"
        finally:
            stop.set()  # Without it kopf would kill the process a while after its end.
            await self._end(tasks)

    def _dead(self) -> ResourceKind | None:
        now = self._monotonic()
        alive = {kind: max(tried, self.proved[kind]) for kind, tried in self._tried.items()}
        return next((kind for kind, at in alive.items() if now - at > self._timing.silence), None)

    async def _end(self, tasks: Collection["asyncio.Task[Any]"]) -> None:
        """End what kopf began: its root tasks first, which end the others in order, then those that are left."""
        await _cancel(tasks, self._timing.exit)
        await _cancel([task for task in asyncio.all_tasks() if _is_kopf(task)], self._timing.exit)
        for session in self._sessions:
            await session.close()
        self._sessions.clear()

    def _registry(self) -> kopf.OperatorRegistry:
        # Not the default registry: that one would log in through the synchronous client, whose import takes 40 MB.
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return kopf.AiohttpSession(server=self._configuration.host, aiohttp_session=await self._credentials())

        for kind in self._kinds.values():
            self._handle(registry, kind)
        return registry

    def _handle(self, registry: kopf.OperatorRegistry, kind: ResourceKind) -> None:
        @kopf.on.event(GROUP, VERSION, kind.plural, registry=registry, id=kind.plural)
        async def handle(event: kopf.RawEvent, **_: Any) -> None:
            if kind not in self._listing:  # A listing may break off before its end: it proves no watch.
                self.proved[kind] = self._monotonic()
            try:
                self._seen(kind, event["type"] or "LISTED", dict(event["object"]))
            except Exception:
                name = event["object"].get("metadata", {}).get("name")
                logger.exception("An event of %s %s could not be taken in", kind.plural, name)

    async def _credentials(self) -> aiohttp.ClientSession:
        """A session with the credentials of now; kopf asks for another one, at once, whenever they are refused.

        Those that were refused are offered again, because the fault may have been the server's, but after a pause.
        """
        settings = self._configuration
        header = await settings.get_api_key_with_prefix("BearerToken")
        if self._offers and header == self._offered:
            pause = self._backoff(self._offers - 1)
            self._trouble = "the API server refuses the credentials"
            logger.warning("The API server refuses the credentials; the watches offer them again in %.1f s.", pause)
            await asyncio.sleep(pause)
            header = await settings.get_api_key_with_prefix("BearerToken")
        self._offered = header
        self._offers += 1
        self._sessions = [session for session in self._sessions if not session.closed]
        return self._session(header)

    def _session(self, header: str | None) -> aiohttp.ClientSession:
        settings = self._configuration
        scheme, _, token = (header or "").rpartition(" ")
        connection = kopf.ConnectionInfo(
            server=settings.host,
            ca_path=settings.ssl_ca_cert,
            insecure=not settings.verify_ssl,
            username=settings.username or None,
            password=settings.password or None,
            scheme=scheme or None,
            token=token or None,
            certificate_path=settings.cert_file,
            private_key_path=settings.key_file,
        )
        self._context = connection.as_ssl_context()
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._context or True),
            headers=connection.as_http_headers(),
            proxy=settings.proxy,
            trust_env=False,
            middlewares=(self._observe, refuse_redirects),
        )
        self._sessions.append(session)
        return session

    async def _observe(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        kind = self._kinds.get(request.url.path)
        sent = self._monotonic()
        if kind is not None:
            self._tried[kind] = sent
        try:
            response = await handler(request)
        except BaseException as error:
            self._contact.failed()
            if self._context is not None and isinstance(error, aiohttp.ClientConnectorCertificateError):
                trust_again(self._context, self._configuration)
            raise
        if response.status >= 500:
            self._contact.failed()
        else:
            self._contact.answered()
        if kind is not None and response.status == 200:
            self._offers = 0
            self._answered(kind, sent, watches="watch" in request.url.query)
        return response

    def _answered(self, kind: ResourceKind, sent: float, *, watches: bool) -> None:
        if not watches:
            self._listing.add(kind)
            return
        self.proved[kind] = max(self.proved[kind], sent)
        if kind in self._listing:
            self._listing.discard(kind)
            first = kind not in self._listed
            self._listed.add(kind)
            self._on_relist(kind, first)


class _NoEssence(kopf.DiffBaseStorage):
    """kopf keeps no copy of the objects: only handlers of changes, which are not used, need one."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return {}  # type: ignore[typeddict-item,unused-ignore]

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        return None


def _settings() -> kopf.OperatorSettings:
    """Kopf's settings: each that differs from its default has a reason."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our Events are our own
    settings.scanning.disabled = True  # kinds are known: no right to watch CRDs and namespaces is needed
    settings.queueing.worker_limit = None  # a limit below the number of objects deadlocks (kopf issue 1243)
    settings.queueing.idle_timeout = 1.0  # a worker per object costs memory for as long as it idles
    settings.watching.chunk_size = 500  # bounds the memory of a listing
    settings.watching.server_timeout = 60  # a watch that is begun again proves that it is alive
    settings.watching.client_timeout = 75
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (0.5, 1, 2, 4, 5, 5, 5, 5)  # back soon after an outage, however long
    settings.process.ultimate_exiting_timeout = None  # the process's end is not kopf's
    settings.persistence.diffbase_storage = _NoEssence()
    return settings


def _why(ended: Iterable["asyncio.Task[Any]"]) -> str:
    """Why kopf ended: an error before anything else."""
    reasons = []
    for task in ended:
        error = None if task.cancelled() else task.exception()
        reasons.append(
            (error is None, f"{task.get_name()}: {type(error).__name__} {error}" if error else task.get_name())
        )
    return min(reasons)[1]


def _is_kopf(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return isinstance(code, CodeType) and code.co_filename.startswith(_KOPF_CODE)


async def _cancel(tasks: Iterable["asyncio.Task[Any]"], seconds: float) -> None:
    """Cancel the tasks until they have ended: a watch of kopf may swallow that once, while it waits to be unpaused."""
    left, deadline = {task for task in tasks if not task.done()}, asyncio.get_running_loop().time() + seconds
    while left and asyncio.get_running_loop().time() < deadline:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()  # It was logged, or is the reason: seen either way.
    if left:
        logger.warning("%d tasks of kopf do not end, and are left.", len(left))
