"""Requests against a server that answers as an API server never does, over IPv4, IPv6, TLS and proxies."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from dev.control_plane import free_ports
from tests.kube.server import Answer, Server, client_of, event, item, kubeconfig, listing, raw, serving, stream
from videojob.kube.client import LEASES, VIDEO_JOBS, KubeClient, KubeError
from videojob.kube.connection import CredentialsError, configuration


class Ends:
    """How requests ended."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def answered(self) -> None:
        self.seen.append("answered")

    def failed(self) -> None:
        self.seen.append("failed")


ANSWERS: dict[str, tuple[Answer, int, str]] = {
    "an object": (raw(b"{}"), 200, "answered"),
    "no JSON": (raw(b"<html>"), 0, "failed"),
    "nothing": (raw(b""), 0, "failed"),
    "a list": (raw(b"[]"), 0, "failed"),
    "invalid UTF-8": (raw(b'{"a": "\xff"}'), 0, "failed"),
    "a truncated body": (stream(b'{"a"', cut=True), 0, "failed"),
    "a body that is not compressed": (raw(b"{}", 200, **{"Content-Encoding": "gzip"}), 0, "failed"),
    "a redirect": (raw(b"", 307, Location="/elsewhere"), 0, "failed"),
    "not modified": (raw(b"", 304), 0, "failed"),
    "forbidden": (raw(b'{"message": "no"}', 403), 403, "answered"),
    "forbidden, with a page": (raw(b"<html>", 403), 403, "answered"),
    "forbidden, with nonsense": (raw(b"[1]", 403), 403, "answered"),
    "forbidden, cut off": (raw(b"\xff\xfe", 403, **{"Content-Encoding": "gzip"}), 403, "answered"),
    "unavailable": (raw(b"", 503), 503, "failed"),
}


@pytest.mark.parametrize(("answer", "code", "end"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_whatever_answers_a_request_is_an_object_or_a_kube_error(
    tmp_path: Path, answer: Answer, code: int, end: str
) -> None:
    ends = Ends()
    async with (
        serving(Server(others=answer)) as server,
        client_of(kubeconfig(tmp_path / "config", server.url), contact=ends) as client,
    ):
        for request in (
            lambda: client.create(LEASES, item("l"), "n"),
            lambda: client.json_patch(LEASES, "l", [], "n"),
            lambda: client.delete(LEASES, "l", "n"),
        ):
            try:
                await request()
                found = 200
            except KubeError as error:
                found = error.code
                assert str(error)
            assert found == code
    assert ends.seen == [end] * 3
    assert len(server.requests) == 3, "no request was sent elsewhere"


async def test_who_does_not_answer_at_all_has_failed(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ends = Ends()
    async with client_of(kubeconfig(tmp_path / "config", f"http://127.0.0.1:{port}"), contact=ends) as client:
        with pytest.raises(KubeError) as raised:
            await client.get(LEASES, "l", "n")
        assert raised.value.code == 0
        assert raised.value.transient
    assert ends.seen == ["failed"]


async def test_a_request_that_is_given_up_has_failed(tmp_path: Path) -> None:
    ends = Ends()

    async def hangs(_: web.Request) -> None:
        await asyncio.Event().wait()

    async with (
        serving(Server(listings=[hangs], others=stream(b"{", stays=True))) as server,
        client_of(kubeconfig(tmp_path / "config", server.url), contact=ends) as client,
    ):
        for request in (client.list(LEASES), client.create(LEASES, {}, "n")):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await request
    assert ends.seen == ["failed", "failed"]


async def test_a_watch_is_contact_when_it_begins_and_none_when_it_breaks(tmp_path: Path) -> None:
    ends = Ends()
    watches = [stream(event("ADDED", item("a", 2)), cut=True), raw(b"", 503), stream(event("ADDED", item("b", 3)))]
    async with (
        serving(Server([listing()], watches)) as server,
        client_of(kubeconfig(tmp_path / "config", server.url), contact=ends) as client,
        asyncio.timeout(5),
    ):
        async for seen in client.watch(VIDEO_JOBS):
            if "uid-b" in str(seen):
                break
    assert ends.seen == ["answered", "answered", "failed", "answered"]


async def test_a_retry_after_is_bounded(tmp_path: Path) -> None:
    for header, seconds in (("7", 7.0), ("99999", 60.0), ("Fri, 31 Dec 1999", None), ("", None)):
        async with (
            serving(Server(others=raw(b"", 429, **{"Retry-After": header}))) as server,
            client_of(kubeconfig(tmp_path / "config", server.url)) as client,
        ):
            with pytest.raises(KubeError) as raised:
                await client.get(LEASES, "l", "n")
            assert raised.value.retry_after == seconds


async def test_an_api_server_on_ipv6_alone_with_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("::1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    watches = [stream(event("ADDED", item("a", 2)), stays=True)]
    async with serving(Server([listing()], watches), "::1", context) as server:
        assert "[::1]" in server.url
        path = kubeconfig(tmp_path / "config", server.url, **{"certificate-authority": str(tmp_path / "ca.crt")})
        async with client_of(path, {"https_proxy": "http://127.0.0.1:1"}) as client, asyncio.timeout(5):
            await client.get(LEASES, "l", "n")
            async for seen in client.watch(VIDEO_JOBS):
                if "uid-a" in str(seen):
                    break


async def test_a_kubeconfig_that_cannot_be_used_is_one_kind_of_error(tmp_path: Path) -> None:
    path = tmp_path / "config"
    for text in ("not a kubeconfig", "{", "[]", "current-context: x", "clusters: 7\ncontexts: 7\n", "\x00"):
        path.write_text(text)
        with pytest.raises(CredentialsError):
            await configuration(path)
    with pytest.raises(CredentialsError):
        await configuration(tmp_path / "none")


async def test_a_certificate_that_cannot_be_used_is_the_same_kind_of_error(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    path = kubeconfig(tmp_path / "config", "https://10.1.2.3", **{"certificate-authority": str(tmp_path / "ca.crt")})
    settings = await configuration(path, {})
    with pytest.raises(CredentialsError, match="certificates"):
        KubeClient(settings)


class Proxy:
    """A proxy that opens tunnels to one address, whatever it is asked for, and remembers what that was."""

    def __init__(self, target: int) -> None:
        self._target = target
        self.asked: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Open one tunnel."""
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        there, out = await asyncio.open_connection("127.0.0.1", self._target)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while piece := await source.read(65536):
                    sink.write(piece)
                sink.close()

        await asyncio.gather(copy(reader, out), copy(there, writer))


@contextlib.asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    found = Proxy(target)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


async def test_requests_and_watches_go_through_the_proxy_with_its_password_or_past_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.example.com", "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    trust = {"certificate-authority": str(tmp_path / "ca.crt")}
    watches = [stream(event("ADDED", item("a", 2)), stays=True)]
    async with serving(Server([listing()], watches), ssl_context=context) as server:
        port = int(server.url.rpartition(":")[2])
        async with proxy(port) as between:
            environment = {"HTTPS_PROXY": f"http://me:secret@127.0.0.1:{between.port}", "NO_PROXY": "10.0.0.0/8"}
            outside = kubeconfig(tmp_path / "outside", "https://api.example.com", **trust)
            async with client_of(outside, environment) as client, asyncio.timeout(5):
                await client.get(LEASES, "l", "n")
                async for seen in client.watch(VIDEO_JOBS):
                    if "uid-a" in str(seen):
                        break
            assert between.asked
            assert all(asked.startswith(b"CONNECT api.example.com:443 ") for asked in between.asked)
            assert all(b"Proxy-Authorization: Basic bWU6c2VjcmV0" in asked for asked in between.asked)
            between.asked.clear()
            here = kubeconfig(tmp_path / "here", server.url, **trust)
            async with client_of(here, environment) as client:
                await client.get(LEASES, "l", "n")
            assert not between.asked, "loopback is never asked through a proxy"
            named = kubeconfig(tmp_path / "named", server.url, **trust, **{"proxy-url": environment["HTTPS_PROXY"]})
            async with client_of(named, {}) as client:
                await client.get(LEASES, "l", "n")
            assert between.asked, "a proxy that the kubeconfig names is used"


def test_the_machine_has_ipv6() -> None:
    """The tests above prove nothing without it."""
    assert socket.has_dualstack_ipv6()
