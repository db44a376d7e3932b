"""A watch goes on whatever comes: each kind of malformed answer, given by a real server."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.kube.server import Answer, Server, client_of, event, item, kubeconfig, listing, raw, serving, stream
from videojob.kube.answers import AnswerError, KubeError
from videojob.kube.client import VIDEO_JOBS, KubeClient
from videojob.kube.watch import LINE_LIMIT, Change, Listing, Watch, WatchTiming, split_lines

LAST = event("ADDED", item("last", 9))
TIMING = WatchTiming()

MALFORMED: dict[str, Answer] = {
    "a line cut in the middle, closed in order": stream(LAST[: len(LAST) // 2]),
    "a line cut in the middle, connection lost": stream(LAST[: len(LAST) // 2], cut=True),
    "an empty line": stream(b"\n"),
    "nothing": stream(),
    "the page of a gateway": stream(b"<html>gateway</html>\n"),
    "an event without object": stream(b'{"type": "ADDED"}\n'),
    "an event whose object is none": stream(event("ADDED", 7)),
    "an object without metadata": stream(event("ADDED", {})),
    "metadata that is none": stream(event("MODIFIED", {"metadata": []})),
    "an object without uid": stream(event("ADDED", {"metadata": {"name": "x", "resourceVersion": "3"}})),
    "an object without version": stream(event("DELETED", {"metadata": {"name": "x", "uid": "u"}})),
    "a bookmark without version": stream(event("BOOKMARK", {"metadata": {}})),
    "a type that nobody knows": stream(event("RENAMED", item("x"))),
    "an event that is a list": stream(b"[1, 2]\n"),
    "invalid UTF-8": stream(b'{"type": "ADDED", "object": "\xff\xfe"}\n'),
    "nested without end": stream(b"[" * 200_000 + b"\n"),
    "an error without code": stream(event("ERROR", {"message": "odd"})),
    "an error without anything": stream(event("ERROR", {})),
    "an error 410": stream(event("ERROR", {"code": 410, "message": "too old"})),
    "an error 500": stream(event("ERROR", {"code": 500, "message": "etcd"})),
    "status 410": raw(b'{"message": "too old"}', 410),
    "status 429": raw(b"", 429, **{"Retry-After": "0"}),
    "status 503 and a page": raw(b"<html>", 503),
    "status 401": raw(b'{"message": "Unauthorized"}', 401),
    "status 403": raw(b'{"message": "forbidden"}', 403),
    "status 404": raw(b"404 page not found", 404),
    "status 400": raw(b'{"message": "invalid resource version"}', 400),
    "a redirect": raw(b"", 302, Location="/login"),
    "a body shorter than it says": raw(b"{}", 200, **{"Content-Encoding": "gzip"}),
}

MALFORMED_LISTINGS: dict[str, Answer] = {
    "no JSON": raw(b"<html>gateway</html>"),
    "half of it": raw(b'{"metadata": {"resourceVersion": "1"}, "items": [{'),
    "a list": raw(b"[]"),
    "no metadata": raw(b'{"items": []}'),
    "no version": raw(b'{"metadata": {}, "items": []}'),
    "items that are none": raw(b'{"metadata": {"resourceVersion": "1"}, "items": 3}'),
    "invalid UTF-8": raw(b'{"metadata": "\xff"}'),
    "cut off": stream(b'{"metadata": ', cut=True),
    "a redirect": raw(b"", 307, Location="/login"),
    "status 500": raw(b"", 500),
    "status 403": raw(b'{"message": "forbidden"}', 403),
    "status 422 and a list": raw(b"[1]", 422),
}


@asynccontextmanager
async def watching(
    tmp_path: Path, listings: Sequence[Answer], watches: Sequence[Answer], **options: Any
) -> AsyncIterator[tuple[Server, KubeClient]]:
    async with (
        serving(Server(listings, watches)) as server,
        client_of(kubeconfig(tmp_path / "config", server.url), **options) as client,
    ):
        yield server, client


def scripted(
    list_all: Callable[[], Awaitable[dict[str, Any]]],
    lines: Callable[[str], AsyncGenerator[bytes, None]],
    *,
    timing: WatchTiming = TIMING,
    monotonic: Callable[[], float] = time.monotonic,
    draw: Callable[[], float] = lambda: 0.0,
) -> Watch:
    """A watch whose server is two functions."""
    return Watch(
        "jobs",
        list_all,
        lines,
        must_start=False,
        failed=lambda error: None,
        timing=timing,
        monotonic=monotonic,
        draw=draw,
    )


async def until_last(watch: Watch) -> list[Listing | Change]:
    seen = []
    async with asyncio.timeout(10):
        async for found in watch:
            seen.append(found)
            if isinstance(found, Change) and found.object["metadata"]["name"] == "last":
                break
    return seen


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_watch_goes_on_after(tmp_path: Path, answer: Answer, times: int) -> None:
    failures: list[KubeError] = []
    good = stream(event("ADDED", item("first", 2)))
    async with watching(tmp_path, [listing(item("old"))], [good, *[answer] * times, stream(LAST, stays=True)]) as (
        server,
        client,
    ):
        watch = client.watch(VIDEO_JOBS, failed=failures.append)
        seen = await until_last(watch)

    assert seen[0] == Listing([item("old")])
    assert seen[1] == Change("ADDED", item("first", 2))
    assert seen[-1] == Change("ADDED", item("last", 9))
    assert failures, "it was reported"
    assert watch.trouble is None
    assert server.watched == times + 2


@pytest.mark.parametrize("answer", MALFORMED_LISTINGS.values(), ids=MALFORMED_LISTINGS.keys())
async def test_a_watch_begins_after_a_listing_that_is(tmp_path: Path, answer: Answer) -> None:
    failures: list[KubeError] = []
    listings = [answer, answer, listing(item("old"))]
    async with watching(tmp_path, listings, [stream(LAST, stays=True)]) as (_, client):
        seen = await until_last(client.watch(VIDEO_JOBS, failed=failures.append))

    assert seen == [Listing([item("old")]), Change("ADDED", item("last", 9))]
    assert len(failures) == 2


async def test_items_that_cannot_be_read_do_not_stop_the_others_and_nothing_is_concluded_to_be_gone(
    tmp_path: Path,
) -> None:
    failures: list[KubeError] = []
    items = [item("a"), None, {"metadata": {"name": "b"}}, 7, item("c")]
    async with watching(tmp_path, [listing(*items)], [stream(LAST, stays=True)]) as (_, client):
        seen = await until_last(client.watch(VIDEO_JOBS, failed=failures.append))

    assert seen[:2] == [Change("MODIFIED", item("a")), Change("MODIFIED", item("c"))]
    assert "3 items" in str(failures[0])


async def test_an_object_of_megabytes_comes_whole(tmp_path: Path) -> None:
    large = item("large", 2, spec={"text": "x" * 5_000_000})
    async with watching(tmp_path, [listing(large)], [stream(event("ADDED", large) + LAST, stays=True)]) as (_, client):
        seen = await until_last(client.watch(VIDEO_JOBS))

    assert seen == [Listing([large]), Change("ADDED", large), Change("ADDED", item("last", 9))]


async def test_lines_are_split_wherever_the_pieces_end_and_have_a_limit() -> None:
    text = b'{"a": 1}\n\n{"b": 2}\n{"c"'

    async def pieces(size: int, of: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(of), size):
            yield of[start : start + size]

    for size in range(1, len(text) + 1):
        assert [line async for line in split_lines(pieces(size, text), "it")] == text.split(b"\n")
    with pytest.raises(AnswerError):
        [line async for line in split_lines(pieces(2**20, b"x" * (LINE_LIMIT + 1)), "it")]


async def test_a_stream_that_broke_goes_on_from_its_last_version(tmp_path: Path) -> None:
    first = event("ADDED", item("first", 5))
    watches = [stream(first, LAST[:20], cut=True), stream(LAST, stays=True)]
    async with watching(tmp_path, [listing()], watches) as (server, client):
        await until_last(client.watch(VIDEO_JOBS))

    assert server.listed == 1
    assert [query["resourceVersion"] for _, query in server.requests if "watch" in query] == ["1", "5"]


async def test_all_is_listed_again_when_answers_go_on_making_no_sense(tmp_path: Path) -> None:
    watches = [stream(b"<html>\n")] * 3 + [stream(LAST, stays=True)]
    async with watching(tmp_path, [listing()], watches) as (server, client):
        await until_last(client.watch(VIDEO_JOBS))

    assert server.listed == 2


async def test_a_refused_watch_reports_it_goes_on_and_lists_again(tmp_path: Path) -> None:
    allowed, refused = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        if server.watched >= 3:
            refused.set()
        if allowed.is_set():
            return await stream(LAST, stays=True)(request)  # type: ignore[no-any-return]
        return await raw(b'{"message": "leases are forbidden"}', 403)(request)  # type: ignore[no-any-return]

    async with watching(tmp_path, [listing()], [answer]) as (server, client):
        watch = client.watch(VIDEO_JOBS, must_start=True)
        running = asyncio.create_task(until_last(watch))
        async with asyncio.timeout(5):
            await refused.wait()
        assert watch.trouble is None or "leases are forbidden" in watch.trouble
        allowed.set()
        seen = await running

    assert seen.count(Listing([])) >= 3


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_start_that_is_refused_is_raised_where_that_was_asked_for(tmp_path: Path, status: int) -> None:
    refusal = raw(b'{"message": "no, no"}', status)
    async with watching(tmp_path, [refusal], []) as (_, client):
        with pytest.raises(KubeError, match="no, no") as raised:
            await until_last(client.watch(VIDEO_JOBS, must_start=True))
    assert raised.value.code == status
    async with watching(tmp_path, [refusal, listing()], [stream(LAST, stays=True)]) as (_, client):
        assert len(await until_last(client.watch(VIDEO_JOBS))) == 2


async def test_a_watch_is_blind_until_it_has_listed_and_while_no_stream_is_open() -> None:
    script: list[list[bytes] | KubeError] = [[b""], KubeError(403, "jobs are forbidden"), [b"", LAST]]
    streams = iter(script)
    seen: list[str | None] = []

    async def list_all() -> dict[str, Any]:
        seen.append(watch.blind)
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    async def lines(_: str) -> AsyncGenerator[bytes, None]:
        seen.append(watch.blind)
        found = next(streams)
        if isinstance(found, KubeError):
            raise found
        for line in found:
            yield line
            seen.append(watch.blind)

    watch = scripted(list_all, lines, timing=WatchTiming(pause=0.01, refused_pause=0.01))
    await until_last(watch)
    ended, refused = "the watch of jobs ended at once", "jobs are forbidden"
    assert seen == ["jobs were not listed yet", None, None, ended, refused, None, None]


async def test_a_watch_that_stalls_is_begun_again(tmp_path: Path) -> None:
    timing = WatchTiming(pause=0.01, stall=0.2)
    async with watching(tmp_path, [listing()], [stream(stays=True), stream(LAST, stays=True)], timing=timing) as (
        server,
        client,
    ):
        await until_last(client.watch(VIDEO_JOBS))
    assert (server.listed, server.watched) == (1, 2)


async def test_what_a_watch_has_proved() -> None:
    """Listings count from when they were asked for, events and bookmarks from when they came."""
    now = 100.0
    script = [b"\n", event("BOOKMARK", {"metadata": {"resourceVersion": "2"}}), LAST]
    reached: list[float] = []

    async def list_all() -> dict[str, Any]:
        nonlocal now
        now += 3
        return {"metadata": {"resourceVersion": "1"}, "items": []}

    async def lines(_: str) -> AsyncGenerator[bytes, None]:
        nonlocal now
        for line in script:
            now += 10
            reached.append(watch.proved)
            yield line

    watch = scripted(list_all, lines, monotonic=lambda: now)
    assert watch.proved == float("-inf")
    await until_last(watch)
    assert reached == [100.0, 100.0, 123.0]
    assert watch.proved == 133.0


async def test_pauses_grow_to_a_limit_and_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time: a server that is refused for good is asked no more than once a minute."""
    pauses: list[float] = []
    draws = iter([1.0, 0.0, 0.5] * 10)
    code = [0]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            raise asyncio.CancelledError

    async def list_all() -> dict[str, Any]:
        raise KubeError(code[0], "no")

    async def lines(_: str) -> AsyncGenerator[bytes, None]:
        yield b""

    monkeypatch.setattr("videojob.kube.watch.asyncio.sleep", sleep)
    for code[0], first, limit in ((403, 5.0, 60.0), (0, 0.5, 15.0)):
        pauses.clear()
        watch = scripted(list_all, lines, draw=lambda: next(draws))
        with pytest.raises(asyncio.CancelledError):
            await until_last(watch)
        plain = [min(first * 2**index, limit) for index in range(8)]
        assert all(whole / 2 <= pause <= whole for pause, whole in zip(pauses, plain, strict=True))
        assert len({pause / whole for pause, whole in zip(pauses, plain, strict=True)}) > 1


async def test_a_refusal_after_an_outage_is_the_first_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that has just started refuses rights for a moment: that must not cost a minute of blindness."""
    pauses: list[float] = []
    codes = [0] * 10 + [403, 403, 0]

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def list_all() -> dict[str, Any]:
        if not codes:
            raise asyncio.CancelledError
        raise KubeError(codes.pop(0), "no")

    async def lines(_: str) -> AsyncGenerator[bytes, None]:
        yield b""

    monkeypatch.setattr("videojob.kube.watch.asyncio.sleep", sleep)
    watch = scripted(list_all, lines, draw=lambda: 1.0)
    with pytest.raises(asyncio.CancelledError):
        await until_last(watch)
    assert pauses[9:] == [15.0, 5.0, 10.0, 0.5]
