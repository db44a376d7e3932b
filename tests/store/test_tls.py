"""An S3 server whose certificate a private CA has signed."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trustme

from tests.store.conftest import without_pauses
from videojob.store import StoreError, open_store
from videojob.store.objects import Objects

SECRET = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "what"}


class _Takes(BaseHTTPRequestHandler):
    """Takes every object, and keeps none."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def serving(certificate: trustme.LeafCert) -> Iterator[str]:
    """The endpoint of a server with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Takes)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def put(endpoint: str, *trusted: trustme.CA) -> None:
    pem = "".join(ca.cert_pem.bytes().decode() for ca in trusted) or None
    store = open_store("s3://bucket", endpoint=endpoint, region="r", credentials=SECRET, ca_certificate=pem)
    await Objects(store, without_pauses(1)).put("a", b"x")


async def test_a_private_ca_is_trusted_once_it_is_named() -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    with serving(ours.issue_cert("127.0.0.1")) as endpoint:
        for trusted in ((), (theirs,)):
            with pytest.raises(StoreError, match=r"certificate is not trusted.*store\.caConfigMapName") as caught:
                await put(endpoint, *trusted)
            assert not caught.value.retryable
        await put(endpoint, ours)
        await put(endpoint, theirs, ours)
        # Two pools in one process: the CA of one is not that of the other.
        with pytest.raises(StoreError, match="certificate is not trusted"):
            await put(endpoint)


def for_another_name(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("store.example")


def out_of_date(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(hours=1))


def not_yet_valid(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert("127.0.0.1", not_before=datetime.now(UTC) + timedelta(hours=1))


@pytest.mark.parametrize(
    ("issue", "sentence"),
    [
        (for_another_name, "for another host name"),
        (out_of_date, "not valid at this time"),
        (not_yet_valid, "not valid at this time"),
    ],
)
async def test_what_else_is_wrong_with_a_certificate(
    issue: Callable[[trustme.CA], trustme.LeafCert], sentence: str
) -> None:
    ca = trustme.CA()
    with serving(issue(ca)) as endpoint, pytest.raises(StoreError, match=sentence):
        await put(endpoint, ca)
