"""A server in the API server's place that answers from a script: by listings, and by what a watch gets."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from aiohttp import web

from videojob.kube.client import KubeClient, WatchTiming
from videojob.kube.connection import configuration

Answer = Callable[[web.Request], Any]

TIMING = WatchTiming(pause=0.01, pause_limit=0.05, refused_pause=0.01, refused_limit=0.05, settled=5, stall=1)


def item(name: str, version: int = 1, **more: Any) -> dict[str, Any]:
    """An object."""
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}, **more}


def listing(*items: Any, version: int = 1) -> Answer:
    """A listing."""
    body = {"metadata": {"resourceVersion": str(version)}, "items": list(items)}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(body)

    return answer


def event(type_: str, object_: Any) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": type_, "object": object_}).encode() + b"\n"


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    """A whole answer, as it is."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=headers)

    return answer


def stream(*pieces: bytes, stays: bool = False, cut: bool = False) -> Answer:
    """A stream that ends in order, or stays open, or is cut off."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if stays:
            await asyncio.Event().wait()
        if cut:
            assert request.transport is not None
            request.transport.abort()
        else:
            await response.write_eof()
        return response

    return answer


@dataclass
class Server:
    """Answers listings and watches from two scripts, each in order; the last answer of a script is repeated."""

    listings: Sequence[Answer] = (listing(),)
    watches: Sequence[Answer] = (stream(stays=True),)
    others: Answer = field(default_factory=lambda: raw(b"{}"))
    prefix: str = ""
    url: str = ""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    _counts: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})

    @property
    def listed(self) -> int:
        """How often all was listed."""
        return self._counts[False]

    @property
    def watched(self) -> int:
        """How often a watch was begun."""
        return self._counts[True]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        self.requests.append((request.method, dict(request.query)))
        watches = "watch" in request.query
        if request.method != "GET" or request.path.removeprefix(self.prefix).count("/") > 4:
            return await self.others(request)  # type: ignore[no-any-return]
        script = self.watches if watches else self.listings
        answer = script[min(self._counts[watches], len(script) - 1)]
        self._counts[watches] += 1
        return await answer(request)  # type: ignore[no-any-return]


Served = TypeVar("Served", bound=Server)


@asynccontextmanager
async def serving(server: Served, host: str = "127.0.0.1", ssl_context: Any = None) -> AsyncIterator[Served]:
    """The server, at work."""
    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, 0, ssl_context=ssl_context)
        await site.start()
        port = runner.addresses[0][1]
        name = f"[{host}]" if ":" in host else host
        server.url = f"{'https' if ssl_context else 'http'}://{name}:{port}"
        yield server
    finally:
        await runner.cleanup()


def kubeconfig(path: Path, url: str, **cluster: Any) -> Path:
    """Write a kubeconfig for a server."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
        "users": [{"name": "u", "user": {"token": "a-token"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@asynccontextmanager
async def client_of(path: Path, environment: dict[str, str] | None = None, **more: Any) -> AsyncIterator[KubeClient]:
    """A client with short times."""
    client = KubeClient(await configuration(path, environment or {}), timing=more.pop("timing", TIMING), **more)
    try:
        yield client
    finally:
        await client.close()
