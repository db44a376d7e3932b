"""/livez, /readyz and /metrics, answered by the event loop that does the work: a blocked one does not answer."""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

Complaint = Callable[[], str | None]
"""What is wrong, as a sentence; None while all is well."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve_health(host: str, port: int, live: Complaint, ready: Complaint) -> web.AppRunner:
    """Serve /livez and /readyz: 200, or 503 with the sentence. Raises OSError if the port is taken."""
    return await _serve(host, port, {"/livez": _probe(live), "/readyz": _probe(ready)})


async def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> web.AppRunner:
    """Serve /metrics. Raises OSError if the port is taken."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return await _serve(host, port, {"/metrics": metrics})


def _probe(complaint: Complaint) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        sentence = complaint()
        return web.Response(text="ok") if sentence is None else web.Response(text=sentence, status=503)

    return answer


async def _serve(host: str, port: int, handlers: dict[str, Handler]) -> web.AppRunner:
    application = web.Application()
    for path, handler in handlers.items():
        application.router.add_get(path, handler)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner
