"""Where health and metrics listen: real sockets of both families."""

import asyncio
import socket

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Counter

from videojob.health import EVERYWHERE, listen, serve_health, serve_metrics


def reaches(host: str, port: int) -> bool:
    """Whether a connection comes about."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "four", "six"),
    [(EVERYWHERE, True, True), ("0.0.0.0", True, False), ("127.0.0.1", True, False), ("::1", False, True)],
)
def test_what_an_address_listens_on(host: str, four: bool, six: bool) -> None:
    with listen(host, 0) as listening:
        port = listening.getsockname()[1]
        assert (reaches("127.0.0.1", port), reaches("::1", port)) == (four, six)


def test_a_machine_without_ipv6_is_listened_on_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with listen(EVERYWHERE, 0) as listening:
        assert listening.family == socket.AF_INET
        assert reaches("127.0.0.1", listening.getsockname()[1])


@pytest.mark.parametrize("host", [EVERYWHERE, "0.0.0.0"])
def test_a_port_that_is_taken_or_an_address_of_another_machine_is_an_error(host: str) -> None:
    with listen(host, 0) as listening, pytest.raises(OSError, match="in use"):
        listen(EVERYWHERE, listening.getsockname()[1])
    with pytest.raises(OSError, match="assign"):
        listen("192.0.2.1", 0)
    with pytest.raises(socket.gaierror):
        listen("no such name", 0)


async def test_health_and_metrics_are_served_over_both_families() -> None:
    registry = CollectorRegistry()
    Counter("seen", "Seen.", registry=registry).inc()
    trouble: list[str] = []
    health = await serve_health(EVERYWHERE, 0, lambda: None, lambda: trouble[0] if trouble else None)
    metrics = await serve_metrics(EVERYWHERE, 0, registry)
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(5):
            for host in ("127.0.0.1", "[::1]"):
                trouble.clear()
                url = f"http://{host}:{health.addresses[0][1]}"
                async with session.get(f"{url}/livez") as answer:
                    assert (answer.status, await answer.text()) == (200, "ok")
                trouble.append("The watch of pods is refused.")
                async with session.get(f"{url}/readyz") as answer:
                    assert (answer.status, await answer.text()) == (503, trouble[0])
                async with session.get(f"http://{host}:{metrics.addresses[0][1]}/metrics") as answer:
                    assert "seen_total 1.0" in await answer.text()
    finally:
        await health.cleanup()
        await metrics.cleanup()
