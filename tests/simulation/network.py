"""What is between a process and the API server: a transport under the real KubeClient, with faults drawn from a seed.

It takes the place of the official client's ApiClient. So what is tried is all of KubeClient and Watch: how errors are
read, how a watch goes on, what counts as an answer.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from kubernetes.aio.client.configuration import Configuration

from tests.simulation.api_server import ApiServer, Refused, Where, parse, status
from tests.simulation.clock import Clock
from tests.simulation.documents import selector
from tests.simulation.process import Process
from videojob.kube import client as kube_client
from videojob.kube.client import KubeClient, Reachability

BOOKMARK_SECONDS = 60.0
NOTHING = b""
NEVER = float("-inf")


@dataclass
class Faults:
    """Shares of requests that meet each fault, until all is calm."""

    lost: float = 0.0
    """Never arrive."""
    unanswered: float = 0.0
    """Take place, and the answer is lost."""
    conflict: float = 0.0
    throttled: float = 0.0
    failing: float = 0.0
    """5xx: some of these writes have taken place."""
    gateway: float = 0.0
    """Something else answers, with HTML."""
    slow: float = 0.0
    """Take seconds."""
    watch_cut: float = 0.0
    """Of deliveries: the stream ends after it, at times within a line."""
    watch_twice: float = 0.0
    watch_swapped: float = 0.0
    watch_late: float = 0.0
    """Of deliveries: seconds late."""
    expired: float = 0.0
    """Of watches that begin: 410."""


@dataclass
class Network:
    """The one way to the API server, for all processes."""

    server: ApiServer
    clock: Clock
    rng: random.Random
    faults: Faults = field(default_factory=Faults)
    away_until: float = 0.0
    """Nobody reaches the API server."""
    frozen: bool = False
    """While it is away, connections stay open and nothing is answered; else they are refused."""
    cut_until: dict[str, float] = field(default_factory=dict)
    """By process: it alone does not reach the API server."""
    blind_until: dict[str, float] = field(default_factory=dict)
    """By process: its watches stand still, all else works."""
    trace: Callable[[str], None] = lambda text: None
    requests: dict[str, int] = field(default_factory=dict)
    """By process: so many."""
    shown: dict[str, float] = field(default_factory=dict)
    """By process: the latest moment as of which it has been shown the Leases, by a listing or a watch."""
    known: float = NEVER
    """The same, of the process whose request the server handles, as it was when the request was sent."""

    def calm(self) -> None:
        """No fault from now on."""
        self.faults = Faults()
        self.away_until = 0.0
        self.cut_until.clear()
        self.blind_until.clear()

    def show(self, process: Process, where: Where, moment: float) -> None:
        """The process has been shown all objects of a kind as they were at that moment."""
        if where.plural == "leases":
            self.shown[process.name] = max(self.shown.get(process.name, NEVER), moment)

    def unreachable(self, process: Process) -> bool:
        """Whether the API server is out of reach of the process now."""
        return self.clock.monotonic() < max(self.away_until, self.cut_until.get(process.name, 0.0))

    def client(self, process: Process, contact: Reachability | None = None) -> KubeClient:
        """The real client, on this network."""
        more: dict[str, Any] = {} if contact is None else {"contact": contact}
        transport = _Transport(self, process)
        with patch.object(kube_client, "ApiClient", lambda settings: transport):
            return KubeClient(cast("Configuration", None), monotonic=self.clock.monotonic, draw=self.rng.random, **more)


class _Transport:
    """As much of `ApiClient` as KubeClient uses."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self.rest_client = self

    async def close(self) -> None:
        pass

    async def param_serialize(
        self, verb: str, path: str, query_params: Any, header_params: Mapping[str, str], body: Any, auth_settings: Any
    ) -> tuple[str, str, Mapping[str, str], Any, None]:
        query = "&".join(f"{key}={value}" for key, value in query_params)
        return verb, f"{path}?{query}", header_params, body, None

    async def request(
        self, verb: str, url: str, headers: Mapping[str, str], body: Any, _request_timeout: aiohttp.ClientTimeout
    ) -> Any:
        limit = _request_timeout.total or _request_timeout.sock_connect
        async with asyncio.timeout(limit):
            response = await self._request(verb, url, headers, body, _request_timeout)
        return SimpleNamespace(response=response)

    async def _request(
        self, verb: str, url: str, headers: Mapping[str, str], body: Any, limits: aiohttp.ClientTimeout
    ) -> "_Response":
        network, rng, faults, name = self._network, self._network.rng, self._network.faults, self._process.name
        network.requests[name] = network.requests.get(name, 0) + 1
        path, query = urlsplit(url).path, dict(parse_qsl(urlsplit(url).query))
        text = json.dumps(body) if body is not None else ""
        watch = query.get("watch") == "1"
        known = network.shown.get(name, NEVER)
        await self._travel()
        if rng.random() < faults.lost:
            await self._never(rng.random() < 0.5)
        if not watch and rng.random() < faults.throttled:
            return self._answer(429, status(429, "too many requests"), {"Retry-After": str(rng.randint(1, 3))})
        if verb in ("PATCH", "PUT") and rng.random() < faults.conflict:
            return self._answer(409, status(409, "the object has been modified"))
        failing = rng.random() < faults.failing
        if failing and rng.random() < 0.5:
            return self._answer(rng.choice((500, 502, 503, 504)), status(503, "etcdserver: no leader"))
        if rng.random() < faults.gateway:
            return _Response(self._process, rng.choice((200, 502)), b"<html>Bad gateway</html>", {})
        try:
            if watch:
                return self._watch(path, query, limits)
            network.known, handled = known, network.clock.monotonic()
            content_type = headers["Content-Type"]
            found = network.server.handle(verb, path, query, json.loads(text or "null"), content_type, name)
            answer = _Response(self._process, 200, network.server.text(found), {})
        except Refused as refused:
            answer = self._answer(refused.code, refused.body)
        if verb != "GET":
            network.trace(f"{name}: {verb} {path} {text[:300]} -> {answer.status}")
        if failing:
            return self._answer(504, status(504, "etcdserver: request timed out"))
        if rng.random() < faults.unanswered:
            await self._never(rng.random() < 0.5)
        await self._travel()
        if verb == "GET" and answer.status == 200 and not (where := parse(path)).name:
            network.show(self._process, where, handled)
        return answer

    async def _travel(self) -> None:
        network, rng = self._network, self._network.rng
        slow = rng.random() < network.faults.slow
        await asyncio.sleep(rng.uniform(0.5, 12.0) if slow else rng.uniform(0.001, 0.01))
        if self._process.dead:
            raise asyncio.CancelledError
        if network.unreachable(self._process):
            await self._never(not network.frozen)

    async def _never(self, refused: bool) -> None:
        """No answer comes: at once, or never."""
        if refused:
            raise aiohttp.ClientConnectionError("connection reset by peer")
        await asyncio.Event().wait()

    def _answer(self, code: int, body: Any, headers: Mapping[str, str] | None = None) -> "_Response":
        return _Response(self._process, code, json.dumps(body).encode(), headers or {})

    def _watch(self, path: str, query: Mapping[str, str], limits: aiohttp.ClientTimeout) -> "_Response":
        if self._network.rng.random() < self._network.faults.expired:
            raise Refused(410, "too old resource version")
        return _Response(self._process, 200, NOTHING, {}, self._stream(path, query, limits))

    async def _stream(self, path: str, query: Mapping[str, str], limits: aiohttp.ClientTimeout) -> AsyncIterator[bytes]:
        """The lines of a watch, as the network brings them."""
        network, where = self._network, parse(path)
        labels, fields = selector(query.get("labelSelector", "")), selector(query.get("fieldSelector", ""))
        version, silence = int(query["resourceVersion"]), 0.0
        ends = network.clock.monotonic() + float(query["timeoutSeconds"])
        while network.clock.monotonic() < ends:
            blind = network.blind_until.get(self._process.name, 0.0) - network.clock.monotonic()
            if network.unreachable(self._process) and not network.frozen:
                raise aiohttp.ClientConnectionError("connection reset by peer")
            if blind > 0 or network.unreachable(self._process):
                await asyncio.sleep(1.0)
                silence += 1.0
                if silence > (limits.sock_read or 150.0):
                    raise TimeoutError
                continue
            silence = 0.0
            try:
                events = network.server.events_since(where.plural, version, labels, fields, where.namespace)
            except Refused as refused:
                yield b'{"type": "ERROR", "object": ' + json.dumps(refused.body).encode() + b"}\n"
                return
            version = network.server.version
            if events:
                async for piece in self._deliver(events, where):
                    yield piece
                continue
            left = min(BOOKMARK_SECONDS, ends - network.clock.monotonic())
            if not await network.server.changed(where.plural, left):
                yield b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "%d"}}}\n' % version

    async def _deliver(self, events: list[Any], where: Where) -> AsyncIterator[bytes]:
        network, rng, faults = self._network, self._network.rng, self._network.faults
        happened = network.clock.monotonic()
        await asyncio.sleep(rng.uniform(2.0, 20.0) if rng.random() < faults.watch_late else rng.uniform(0.001, 0.02))
        if len(events) > 1 and rng.random() < faults.watch_swapped:
            at = rng.randrange(len(events) - 1)
            if events[at]["object"]["metadata"]["uid"] != events[at + 1]["object"]["metadata"]["uid"]:
                events[at], events[at + 1] = events[at + 1], events[at]
        for event in events:
            if network.unreachable(self._process) or network.blind_until.get(self._process.name, 0.0) > (
                network.clock.monotonic()
            ):
                raise aiohttp.ClientConnectionError("connection reset by peer")
            line = b'{"type": "%s", "object": ' % event["type"].encode() + network.server.text(event["object"]) + b"}\n"
            yield line
            if rng.random() < faults.watch_twice:
                yield line
            if rng.random() < faults.watch_cut:
                yield rng.choice((line[: len(line) // 2], b"\n", b"<html>Bad gateway</html>\n", NOTHING))
                if rng.random() < 0.5:
                    raise aiohttp.ClientPayloadError("the stream was cut")
                return
        network.show(self._process, where, happened)


class _Response:
    """As much of aiohttp's as KubeClient uses."""

    def __init__(
        self,
        process: Process,
        code: int,
        body: bytes,
        headers: Mapping[str, str],
        stream: AsyncIterator[bytes] | None = None,
    ) -> None:
        self._process = process
        self.status = code
        self.headers = headers
        self.content = self
        self._body = body
        self._stream = stream

    async def read(self, size: int = -1) -> bytes:
        if self._process.dead:
            raise asyncio.CancelledError
        body, self._body = self._body, NOTHING
        return body

    async def iter_any(self) -> AsyncIterator[bytes]:
        if self._stream is None:
            yield self._body
            return
        async for piece in self._stream:
            if self._process.dead:
                raise asyncio.CancelledError
            yield piece

    def close(self) -> None:
        pass
