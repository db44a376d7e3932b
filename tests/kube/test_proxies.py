"""Which servers are asked through a proxy: every way to write NO_PROXY."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.kube.proxies import proxy_for

PROXY = "http://proxy.example.com:3128"


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "api.localhost", "localhost."]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_loopback_never_goes_through_a_proxy(scheme: str, host: str) -> None:
    assert proxy_for(f"{scheme}://{host}:6443", {"http_proxy": PROXY, "https_proxy": PROXY}) is None


@pytest.mark.parametrize(
    ("server", "exceptions"),
    [
        ("10.96.0.1", "10.96.0.0/12"),
        ("10.96.0.1", "example.com, 10.0.0.0/8 ,other"),
        ("10.96.0.1", "10.96.0.7/12"),
        ("10.96.0.1", "10.96.0.1"),
        ("10.96.0.1", "10.96.0.1:443"),
        ("[fd00:10:96::1]", "fd00::/8"),
        ("[fd00:10:96::1]", "[fd00::]/8"),
        ("[fd00:10:96::1]", "fd00:10:96:0::1"),
        ("[fd00:10:96::1]", "[fd00:10:96::1]:443"),
        ("[fd00:10:96::1]", "[fd00:10:96::1]"),
        ("api.example.com", "example.com"),
        ("api.example.com", ".example.com"),
        ("api.example.com", "*.example.com"),
        ("api.example.com", "API.Example.COM"),
        ("api.example.com.", "example.com"),
        ("api.example.com", "api.example.com:443"),
        ("example.com", ".example.com"),
        ("kubernetes.default.svc", "svc localhost"),
        ("api.example.com", "nonsense/99,*"),
    ],
)
def test_what_no_proxy_names_is_asked_directly(server: str, exceptions: str) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        assert proxy_for(f"https://{server}", {"HTTPS_PROXY": PROXY, name: exceptions}) is None


@pytest.mark.parametrize(
    ("server", "exceptions"),
    [
        ("10.96.0.1", "10.96.0.0/32,192.168.0.0/16,fd00::/8"),
        ("10.96.0.1", "10.96.0.1:6443"),
        ("10.96.0.1", "10.96"),
        ("[fd00:10:96::1]", "fe80::/10,10.0.0.0/8"),
        ("api.example.com", "ample.com,api,com.api,10.0.0.0/8"),
        ("api.example.com", "api.example.com:6443"),
        ("api.example.com", "/,.,:,[,]:1,example.com/8,,"),
        ("api.example.com", ""),
    ],
)
def test_what_it_does_not_name_goes_through_the_proxy(server: str, exceptions: str) -> None:
    assert proxy_for(f"https://{server}", {"https_proxy": PROXY, "no_proxy": exceptions}) == PROXY


def test_the_scheme_and_small_letters_decide() -> None:
    environment = {"HTTPS_PROXY": "http://large", "https_proxy": "http://small", "HTTP_PROXY": "plain:3128"}
    assert proxy_for("https://api.example.com", environment) == "http://small"
    assert proxy_for("http://api.example.com", environment) == "http://plain:3128"
    assert proxy_for("https://api.example.com", {"all_proxy": PROXY, "http_proxy": PROXY}) is None


def test_a_proxy_that_cannot_be_used_is_a_sentence_without_its_password() -> None:
    for proxy in ("socks5://me:secret@proxy", "http://", "ftp://proxy"):
        with pytest.raises(ValueError, match="https_proxy names no proxy") as raised:
            proxy_for("https://api.example.com", {"https_proxy": proxy})
        assert "secret" not in str(raised.value)


@given(st.text(alphabet="a1.:/[]*,- %é", max_size=30))
def test_nothing_in_no_proxy_is_an_exception(exceptions: str) -> None:
    for server in ("https://10.96.0.1", "https://api.example.com", "https://[fd00::1]"):
        assert proxy_for(server, {"https_proxy": PROXY, "no_proxy": exceptions}) in (None, PROXY)
