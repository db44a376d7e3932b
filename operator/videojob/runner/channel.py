"""How a Triton is reached: options of the gRPC channel to it."""

import ipaddress

_CHANNEL = [
    # Frames of a large chunk, where they come through gRPC.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Else a server that comes back is looked for only every two minutes.
    ("grpc.max_reconnect_backoff_ms", 1000),
]


def channel_arguments(url: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to `host:port`, IPv6 in brackets. Loopback is never asked through a proxy.

    A Triton elsewhere is, where the environment says so (`grpc_proxy`, `https_proxy`, `no_proxy`).
    """
    return [*_CHANNEL, ("grpc.enable_http_proxy", 0)] if _is_loopback(url) else list(_CHANNEL)


def _is_loopback(url: str) -> bool:
    host = url.rpartition(":")[0].strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
