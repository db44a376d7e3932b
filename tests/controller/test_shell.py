"""kopf in its shell: what ends it or one of its watches, it is started again in place, and nothing else is touched.

Malformed answers come from a server in the API server's place; the rest is tried on a real one.
"""

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme
from aiohttp import web

from dev.control_plane import Cluster
from tests.controller.world import World, until
from tests.kube.server import Answer, Server, event, item, kubeconfig, listing, raw, serving, stream
from videojob.api import GROUP, VERSION
from videojob.controller.intake import KINDS
from videojob.controller.shell import Shell, ShellTiming, _is_kopf
from videojob.kube.client import VIDEO_JOBS, VIDEO_MODELS, Json, ResourceKind
from videojob.kube.connection import configuration

TIMING = ShellTiming(pause=0.05, pause_limit=0.2, silence=60, check=0.1, exit=5)

CRDS = ResourceKind("customresourcedefinitions", "/apis/apiextensions.k8s.io/v1", namespaced=False)


def resource(kind: ResourceKind) -> dict[str, Any]:
    """A kind, as discovery shows it."""
    verbs = ["list", "watch", "patch"]
    names = {"name": kind.plural, "singularName": kind.plural[:-1], "kind": kind.plural[:-1].title()}
    return {**names, "namespaced": kind.namespaced, "verbs": verbs}


@dataclass
class Apis(Server):
    """An API server as far as kopf needs one; jobs are as scripted, the other kinds are empty and quiet."""

    kinds: tuple[ResourceKind, ...] = KINDS
    quiet: Server = field(default_factory=Server)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        parts = request.path.removeprefix(self.prefix).strip("/").split("/")
        version = {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}
        crds = {"groupVersion": "apiextensions.k8s.io/v1", "version": "v1"}
        fixed: dict[tuple[str, ...], dict[str, Any]] = {
            ("api",): {"versions": ["v1"]},
            ("api", "v1"): {"resources": [resource(ResourceKind("namespaces", "/api/v1", namespaced=False))]},
            ("apis",): {
                "groups": [
                    {"name": GROUP, "versions": [version], "preferredVersion": version},
                    {"name": "apiextensions.k8s.io", "versions": [crds], "preferredVersion": crds},
                ]
            },
            ("apis", "apiextensions.k8s.io", "v1"): {"resources": [resource(CRDS)]},
            ("apis", GROUP, VERSION): {"resources": [resource(kind) for kind in self.kinds]},
        }
        if tuple(parts) in fixed:
            return web.json_response(fixed[tuple(parts)])
        return await (super().answer(request) if parts[-1] == VIDEO_JOBS.plural else self.quiet.answer(request))


class Watcher:
    """A shell, and what it brought."""

    def __init__(self, settings: Any, namespace: str | None = None, timing: ShellTiming = TIMING) -> None:
        self.seen: list[tuple[ResourceKind, str, str]] = []
        self.listings: list[tuple[ResourceKind, bool]] = []
        self.restarts: list[str] = []
        self.signalled: list[int] = []
        self.contact: list[bool] = []
        self.broken: Callable[[Json], None] = lambda body: None
        self.shell = Shell(
            settings,
            namespace,
            KINDS,
            self._see,
            lambda kind, first: self.listings.append((kind, first)),
            restarted=self.restarts.append,
            signals={signal.SIGTERM: lambda: self.signalled.append(signal.SIGTERM)},
            contact=self,
            monotonic=monotonic,
            draw=lambda: 0.5,
            timing=timing,
        )

    def answered(self) -> None:
        self.contact.append(True)

    def failed(self) -> None:
        self.contact.append(False)

    def _see(self, kind: ResourceKind, type_: str, body: Json) -> None:
        self.seen.append((kind, type_, body["metadata"]["name"]))
        self.broken(body)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        async def look() -> bool | None:
            return True if holds() else None

        try:
            await until(look, what, 15)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen {self.seen}, restarts {self.restarts}") from None

    async def brings(self, type_: str, name: str) -> None:
        await self.until(lambda: (VIDEO_JOBS, type_, name) in self.seen, f"{type_} {name}")


@asynccontextmanager
async def running(watcher: Watcher) -> AsyncIterator[Watcher]:
    handler = signal.getsignal(signal.SIGTERM)
    task = asyncio.create_task(watcher.shell.run())
    try:
        yield watcher
        assert not task.done(), "nothing ends it"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, handler)


ENDS_KOPF: dict[str, Answer] = {
    "a line cut in the middle": stream(event("ADDED", item("x"))[:30]),
    "the page of a gateway": stream(b"<html>gateway</html>\n"),
    "an event without object": stream(b'{"type": "ADDED"}\n'),
    "an object without metadata": stream(event("ADDED", {})),
    "invalid UTF-8": stream(b'{"type": "\xff"}\n'),
    "an error 500": stream(event("ERROR", {"code": 500, "message": "etcd"})),
    "an error without code": stream(event("ERROR", {})),
    "status 404": raw(b"404 page not found", 404),
    "status 401": raw(b'{"message": "Unauthorized"}', 401),
}


@pytest.mark.parametrize("answer", ENDS_KOPF.values(), ids=ENDS_KOPF.keys())
async def test_kopf_is_started_again_in_place_after(tmp_path: Path, answer: Answer) -> None:
    last = stream(event("ADDED", item("last", 9)), stays=True)
    bystander = asyncio.create_task(asyncio.Event().wait())
    async with serving(Apis([listing(item("old"))], [answer, last])) as server:
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        async with running(Watcher(settings)) as watcher:
            during = asyncio.create_task(asyncio.Event().wait())
            await watcher.brings("ADDED", "last")
            await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
            assert len(watcher.restarts) == 1 or answer is ENDS_KOPF["status 401"]
            assert watcher.listings.count((VIDEO_JOBS, True)) == 1
            assert not during.done(), "kopf cancels nothing that is not its own"
            during.cancel()
        assert not [task for task in asyncio.all_tasks() if _is_kopf(task)], "nothing of it is left"
    assert not bystander.done()
    bystander.cancel()


@dataclass
class Guarded(Apis):
    """It takes one token alone."""

    token: str = "new"
    refused: list[float] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        if request.headers.get("Authorization", "").split()[-1:] != [self.token]:
            self.refused.append(monotonic())
            return web.json_response({"message": "Unauthorized"}, status=401)
        return await super().answer(request)


async def test_credentials_that_are_refused_are_offered_again_with_pauses_and_new_ones_at_once(tmp_path: Path) -> None:
    """A token that has expired, or a server whose keys were changed: a 401 must not be asked for again and again."""
    timing = ShellTiming(pause=0.2, pause_limit=0.4, silence=60, check=0.1, exit=5)
    async with serving(Guarded(watches=[stream(event("ADDED", item("last", 9)), stays=True)])) as server:
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        tokens = {"BearerToken": "old"}

        async def read(found: Any) -> None:
            found.api_key["BearerToken"] = tokens["BearerToken"]

        settings.refresh_api_key_hook = read  # type: ignore[assignment] # the library declares it as None
        async with running(Watcher(settings, timing=timing)) as watcher:

            def longest() -> float:
                return max((after - before for before, after in pairwise(server.refused)), default=0.0)

            await watcher.until(lambda: longest() > 0.25 or len(server.refused) > 50, "it is tried again")
            assert longest() > 0.25, "not without pauses"
            assert "has not begun" in (watcher.shell.healthy() or "")
            assert watcher.restarts == [], "kopf need not be started again for that"
            tokens["BearerToken"] = "new"
            await watcher.brings("ADDED", "last")
            await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
            assert len([session for session in watcher.shell._sessions if not session.closed]) == 1
            assert len(watcher.shell._sessions) <= 2


async def test_a_ca_that_is_rotated_is_trusted_without_a_restart(tmp_path: Path) -> None:
    before, after = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    before.issue_cert("127.0.0.1").configure_cert(context)
    before.cert_pem.write_to_path(tmp_path / "ca.crt")
    rotated = asyncio.Event()

    async def until_rotated(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(event("ADDED", item("first", 2)))
        await rotated.wait()
        response.force_close()
        return response

    watches = [until_rotated, stream(event("ADDED", item("last", 9)), stays=True)]
    async with serving(Apis(watches=watches), ssl_context=context) as server:
        trust = {"certificate-authority": str(tmp_path / "ca.crt")}
        settings = await configuration(kubeconfig(tmp_path / "config", server.url, **trust), {})
        async with running(Watcher(settings)) as watcher:
            await watcher.brings("ADDED", "first")
            after.issue_cert("127.0.0.1").configure_cert(context)
            rotated.set()
            await watcher.until(lambda: not watcher.contact[-1], "the new certificate is not trusted yet")
            after.cert_pem.write_to_path(tmp_path / "ca.crt")
            await watcher.brings("ADDED", "last")


async def test_a_gateway_may_serve_the_cluster_below_a_path_and_redirects_are_no_contact(tmp_path: Path) -> None:
    prefix = "/k8s/clusters/c-1"
    watches = [raw(b"", 302, Location="/login"), stream(event("ADDED", item("last", 9)), stays=True)]
    async with serving(Apis(watches=watches, prefix=prefix)) as server:
        server.quiet.prefix = prefix
        settings = await configuration(kubeconfig(tmp_path / "config", server.url + prefix), {})
        async with running(Watcher(settings)) as watcher:
            await watcher.brings("ADDED", "last")
            await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
            assert watcher.contact.count(False) == 1
            assert watcher.restarts == []


async def test_a_watch_that_ends_without_a_word_is_noticed(tmp_path: Path) -> None:
    timing = ShellTiming(pause=0.05, silence=0.5, check=0.05, exit=5)
    async with serving(Apis()) as server:
        server.watches = server.quiet.watches = [stream(), stream(stays=True)]
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        async with running(Watcher(settings, timing=TIMING)) as watcher:
            await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
            watcher.shell._timing = timing
            (task,) = (task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for videojobs"))
            task.cancel()
            await watcher.until(lambda: bool(watcher.restarts), "the dead watch is noticed")
            assert "dead" in watcher.restarts[0]


async def test_kinds_that_are_not_there_at_the_start_are_looked_for_again(tmp_path: Path) -> None:
    timing = ShellTiming(pause=0.05, silence=1, check=0.05, exit=5)
    async with serving(Apis(kinds=tuple(kind for kind in KINDS if kind is not VIDEO_JOBS))) as server:
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        async with running(Watcher(settings, timing=timing)) as watcher:
            await watcher.until(lambda: VIDEO_MODELS in dict(watcher.listings), "the others are watched")
            await watcher.until(
                lambda: "videojobs has not begun" in (watcher.shell.healthy() or ""), "the watch of jobs alone is away"
            )
            server.kinds = KINDS
            await watcher.until(lambda: VIDEO_JOBS in dict(watcher.listings), "jobs are watched")


async def test_what_a_listing_brings_proves_no_watch(tmp_path: Path) -> None:
    async with serving(Apis([listing(item("early"))], [raw(b"", 503)])) as server:
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        async with running(Watcher(settings)) as watcher:
            await watcher.brings("LISTED", "early")
            await watcher.until(lambda: VIDEO_MODELS in dict(watcher.listings), "the others are watched")
            await watcher.until(
                lambda: "videojobs has not begun" in (watcher.shell.healthy() or ""), "the watch of jobs alone is away"
            )
            server.watches = [stream(stays=True)]
            await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
            assert VIDEO_JOBS in dict(watcher.listings)


async def test_what_cannot_be_taken_in_stops_nothing(tmp_path: Path) -> None:
    events = b"".join(event("ADDED", item(name, version)) for version, name in enumerate(["bad", "good", "bad"], 2))
    async with serving(Apis([listing(item("bad"))], [stream(events, stays=True)])) as server:
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        watcher = Watcher(settings)

        def break_(body: Json) -> None:
            if body["metadata"]["name"] == "bad":
                raise KeyError("uid")

        watcher.broken = break_
        async with running(watcher):
            await watcher.brings("ADDED", "good")
            assert watcher.restarts == []


async def test_a_server_that_is_away_is_no_contact_and_the_watches_report_it(tmp_path: Path) -> None:
    answers: list[Answer] = [raw(b"", 503)]
    async with serving(Apis(answers)) as server:
        settings = await configuration(kubeconfig(tmp_path / "config", server.url), {})
        async with running(Watcher(settings)) as watcher:
            await watcher.until(lambda: False in watcher.contact, "it failed")
            await watcher.until(
                lambda: "videojobs has not begun" in (watcher.shell.healthy() or ""), "the watch of jobs alone is away"
            )
            server.listings = [listing()]
            await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
            assert watcher.contact[-1]


async def test_jobs_come_from_a_real_server_listings_are_counted_and_signals_stay_ours(
    world: World, cluster: Cluster
) -> None:
    settings = await configuration(cluster.kubeconfig, {})
    await world.job("before")
    async with running(Watcher(settings)) as watcher:
        await watcher.brings("LISTED", "before")
        listed = sorted(((kind, True) for kind in KINDS), key=str)
        await watcher.until(lambda: sorted(watcher.listings, key=str) == listed, "each kind is listed once")
        assert watcher.shell.healthy() is None
        os.kill(os.getpid(), signal.SIGTERM)
        await watcher.until(lambda: watcher.signalled == [signal.SIGTERM], "the signal comes to us")
        await world.job("after")
        await watcher.brings("ADDED", "after")
        await world.client.delete(VIDEO_JOBS, "after", world.namespace)
        await watcher.brings("DELETED", "after")
        assert watcher.shell.proved[VIDEO_JOBS] > watcher.shell.proved[VIDEO_MODELS]
        assert watcher.restarts == []


async def test_one_namespace_alone_can_be_watched(world: World, cluster: Cluster) -> None:
    settings = await configuration(cluster.kubeconfig, {})
    await world.job("ours")
    async with running(Watcher(settings, world.namespace)) as watcher:
        await watcher.brings("LISTED", "ours")
        await watcher.until(lambda: watcher.shell.healthy() is None, "all watches are well")
        assert {name for kind, _, name in watcher.seen if kind is VIDEO_JOBS} == {"ours"}
