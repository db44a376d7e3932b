"""/livez, /readyz and /metrics, answered by the event loop that does the work: a blocked one does not answer."""

import errno
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

EVERYWHERE = "::"
"""Every address of this machine, of both families or of the one that it has: kubelet and Prometheus come from outside
the pod."""

Complaint = Callable[[], str | None]
"""What is wrong, as a sentence; None while all is well."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve_health(host: str, port: int, live: Complaint, ready: Complaint) -> web.AppRunner:
    """Serve /livez and /readyz: 200, or 503 with the sentence. Raises OSError if the port cannot be used."""
    return await _serve(host, port, {"/livez": _probe(live), "/readyz": _probe(ready)})


async def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> web.AppRunner:
    """Serve /metrics. Raises OSError if the port cannot be used."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return await _serve(host, port, {"/metrics": metrics})


def listen(host: str, port: int) -> socket.socket:
    """A listening socket of an address or a name; port 0 takes a free one.

    EVERYWHERE is both families where the machine has both, and the one that it has where it has one. (asyncio's own
    servers take IPv6 alone for it.) Raises OSError if the address does not exist or the port is taken.
    """
    if host == EVERYWHERE and socket.has_dualstack_ipv6():
        try:
            return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    if host == EVERYWHERE:
        host = "0.0.0.0"  # noqa: S104 - see EVERYWHERE
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address, family=family)


def _probe(complaint: Complaint) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        sentence = complaint()
        return web.Response(text="ok") if sentence is None else web.Response(text=sentence, status=503)

    return answer


async def _serve(host: str, port: int, handlers: dict[str, Handler]) -> web.AppRunner:
    listening = listen(host, port)
    application = web.Application()
    for path, handler in handlers.items():
        application.router.add_get(path, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    return runner
