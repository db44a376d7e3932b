"""The CA of a cluster is rotated: the kubelet replaces its file in every pod, and no process is restarted for that."""

import logging
import ssl
from pathlib import Path

import pytest
import trustme

from tests.kube.server import Server, client_of, kubeconfig, raw, serving
from videojob.kube.answers import KubeError
from videojob.kube.client import LEASES


async def test_a_ca_that_is_rotated_is_trusted_from_the_next_request_on(tmp_path: Path) -> None:
    before, after = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    before.issue_cert("127.0.0.1").configure_cert(context)
    ca = tmp_path / "ca.crt"
    before.cert_pem.write_to_path(ca)
    async with serving(Server(others=raw(b"{}", Connection="close")), ssl_context=context) as server:
        path = kubeconfig(tmp_path / "config", server.url, **{"certificate-authority": str(ca)})
        async with client_of(path) as client:
            await client.get(LEASES, "l", "n")

            after.issue_cert("127.0.0.1").configure_cert(context)
            for _ in range(2):
                with pytest.raises(KubeError, match="certificate verify failed"):
                    await client.get(LEASES, "l", "n")

            after.cert_pem.write_to_path(ca)
            with pytest.raises(KubeError, match="certificate verify failed"):
                await client.get(LEASES, "l", "n")
            await client.get(LEASES, "l", "n")


async def test_a_ca_that_is_gone_costs_nothing_but_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    after.issue_cert("127.0.0.1").configure_cert(context)
    ca = tmp_path / "ca.crt"
    before.cert_pem.write_to_path(ca)
    async with serving(Server(), ssl_context=context) as server:
        path = kubeconfig(tmp_path / "config", server.url, **{"certificate-authority": str(ca)})
        async with client_of(path) as client:
            ca.unlink()
            with caplog.at_level(logging.WARNING), pytest.raises(KubeError, match="certificate verify failed"):
                await client.get(LEASES, "l", "n")
    assert "cannot be read again" in caplog.text
