"""Which proxy a server is asked through, by the environment: decided once, not for every request.

The rules are those of Go's client, which kubectl has, so that one setting of NO_PROXY serves both; like curl, a name
with a leading dot also stands for itself. The loopback is never asked through a proxy.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def proxy_for(url: str, environment: Mapping[str, str]) -> str | None:
    """The URL of the proxy for a server, None for a direct connection.

    http_proxy, https_proxy and no_proxy count, in small letters first. NO_PROXY is a list of `*`, names, suffixes,
    addresses, and networks (CIDR), each but the last with or without a port.

    Raises:
        ValueError: the proxy is of a kind that cannot be used; the text is a sentence for people.
    """
    server = urlsplit(url)
    host, port = (server.hostname or "").rstrip("."), server.port or (80 if server.scheme == "http" else 443)
    name = f"{server.scheme}_proxy"
    proxy = _get(environment, name)
    if not host or not proxy or _loopback(host) or _excepted(host, port, _get(environment, "no_proxy")):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https") or not urlsplit(proxy).hostname:
        raise ValueError(f"{name} names no proxy of http or https. Correct it, or add {host} to no_proxy.")
    return proxy


def _get(environment: Mapping[str, str], name: str) -> str:
    return (environment.get(name) or environment.get(name.upper()) or "").strip()


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _loopback(host: str) -> bool:
    address = _address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _excepted(host: str, port: int, exceptions: str) -> bool:
    return any(_matches(host, port, entry.lower()) for entry in exceptions.replace(",", " ").split())


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    address = _address(host)
    if "/" in entry:
        try:
            network = ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            return False
        return address is not None and address in network
    pattern, its_port = _split_port(entry)
    if its_port is not None and its_port != port:
        return False
    if address is not None:
        return address == _address(pattern)
    suffix = pattern.removeprefix("*").lstrip(".").rstrip(".")
    return bool(suffix) and (host == suffix or host.endswith(f".{suffix}"))


def _split_port(entry: str) -> tuple[str, int | None]:
    """Pattern and port of `name`, `name:1`, `::1`, `[::1]` and `[::1]:1`."""
    if entry.startswith("["):
        pattern, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    elif entry.count(":") == 1:
        pattern, _, port = entry.partition(":")
    else:
        pattern, port = entry, ""
    return pattern, int(port) if port.isascii() and port.isdigit() else None
