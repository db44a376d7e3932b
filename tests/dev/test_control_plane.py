"""The local cluster is a real one: TLS, authentication and RBAC are on."""

import json
import stat

import pytest

from dev.control_plane import NAMESPACE, Cluster, free_ports
from dev.errors import DevError

ACCOUNTS = ("videojob-operator", "videojob-runner")


def test_an_unknown_token_is_refused(cluster: Cluster) -> None:
    nobody = cluster.with_token("nobody", cluster.folder / "nobody.kubeconfig")
    with pytest.raises(DevError, match="You must be logged in"):
        cluster.kubectl("get", "videojobs", kubeconfig=nobody)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_a_service_account_is_itself_and_no_administrator(cluster: Cluster, account: str) -> None:
    kubeconfig = cluster.service_account(account)
    who = json.loads(cluster.kubectl("auth", "whoami", "-o", "json", kubeconfig=kubeconfig))
    assert who["status"]["userInfo"]["username"] == f"system:serviceaccount:{NAMESPACE}:{account}"
    cluster.kubectl("get", "videojobs", "--all-namespaces", kubeconfig=kubeconfig)
    with pytest.raises(DevError, match="Forbidden"):
        cluster.kubectl("get", "secrets", "--all-namespaces", kubeconfig=kubeconfig)


def test_secrets_on_disk_are_the_owners_alone(cluster: Cluster) -> None:
    cluster.service_account("videojob-runner")
    assert stat.S_IMODE(cluster.folder.stat().st_mode) == 0o700
    for path in (cluster.kubeconfig, *cluster.folder.glob("*.kubeconfig")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(20))) == 20
