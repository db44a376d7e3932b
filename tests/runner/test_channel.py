"""How a Triton is reached: on loopback never through a proxy, whatever the environment has, by IPv4 and by IPv6."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from videojob.runner.channel import channel_arguments
from videojob.runner.triton import Triton, TritonGoneError

PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")


@asynccontextmanager
async def listening(host: str, asked: asyncio.Event) -> AsyncIterator[int]:
    """A server that hangs up on whoever connects, and its port."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    server = await asyncio.start_server(refuse, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
async def test_loopback_is_asked_itself(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxied, asked = asyncio.Event(), asyncio.Event()
    family = {"127.0.0.1": "127.0.0.1", "[::1]": "::1", "localhost": "127.0.0.1"}[host]
    async with listening("127.0.0.1", proxied) as proxy, listening(family, asked) as port:
        for name in PROXIES:
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        for name in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        triton = Triton(f"{host}:{port}")
        checking = asyncio.create_task(triton.check())
        await asyncio.wait_for(asked.wait(), 30)
        checking.cancel()
        with suppress(asyncio.CancelledError, TritonGoneError):
            await checking
        await triton.close()

    assert not proxied.is_set()


@pytest.mark.parametrize(
    ("url", "direct"),
    [
        pytest.param("127.0.0.1:8001", True, id="loopback"),
        pytest.param("127.8.0.1:8001", True, id="all of 127/8"),
        pytest.param("[::1]:8001", True, id="loopback of IPv6"),
        pytest.param("localhost:8001", True, id="its name"),
        pytest.param("LOCALHOST.:8001", True, id="its name, written otherwise"),
        pytest.param("gpu.localhost:8001", True, id="a name below it"),
        pytest.param("10.0.0.7:8001", False, id="another machine"),
        pytest.param("[fd00::7]:8001", False, id="another machine by IPv6"),
        pytest.param("triton.example.com:8001", False, id="a name"),
        pytest.param("127.0.0.1.example.com:8001", False, id="a name that begins like loopback"),
    ],
)
def test_only_loopback_ignores_the_environment(url: str, direct: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in channel_arguments(url)) is direct


def test_this_machine_has_ipv6_loopback() -> None:
    """Else the test above shows nothing."""
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
