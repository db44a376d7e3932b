"""Addresses of a cluster: one free block of the 10.0.0.0/8 network, cut into link, services and pods."""

import hashlib
import ipaddress
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dev.control_plane import Network
from dev.errors import DevError

_FIRST, _LAST = 96, 191
"""Second number of the blocks that are tried: 10.96.0.0/16 to 10.191.0.0/16."""


@dataclass(frozen=True)
class Addresses:
    """The block 10.N.0.0/16 of a cluster."""

    number: int

    @property
    def block(self) -> str:
        """All of it; the host's route to the node is for this."""
        return f"10.{self.number}.0.0/16"

    @property
    def host(self) -> str:
        """The host's end of the link to the node."""
        return f"10.{self.number}.0.1"

    @property
    def node(self) -> str:
        """The node's end."""
        return f"10.{self.number}.0.2"

    @property
    def services(self) -> str:
        """ClusterIPs."""
        return f"10.{self.number}.64.0/18"

    @property
    def dns(self) -> str:
        """The ClusterIP of CoreDNS."""
        return f"10.{self.number}.64.10"

    @property
    def pods(self) -> str:
        """Addresses of pods."""
        return f"10.{self.number}.128.0/17"

    @property
    def interface(self) -> str:
        """Name of the host's end of the link."""
        return f"videojob{self.number}"

    @property
    def network(self) -> Network:
        """The part of it that the API server is configured with."""
        return Network(self.host, self.node, self.services)


def choose(folder: Path, used: Iterable[str]) -> Addresses:
    """The block of the cluster in the folder: one that overlaps no used network, the same for a folder where it can be.

    Raises:
        DevError: every block is used.
    """
    networks = [ipaddress.ip_network(each) for each in used]
    count = _LAST - _FIRST + 1
    begin = int.from_bytes(hashlib.sha256(str(folder).encode()).digest()[:4], "big")
    for offset in range(count):
        addresses = Addresses(_FIRST + (begin + offset) % count)
        block = ipaddress.ip_network(addresses.block)
        if not any(block.overlaps(network) for network in networks if network.version == 4):
            return addresses
    raise DevError(f"Every network from 10.{_FIRST}.0.0/16 to 10.{_LAST}.0.0/16 is used on this machine.")


def used_networks() -> list[str]:
    """The networks that this machine has routes to, without its default route."""
    result = subprocess.run(("ip", "-json", "-4", "route"), capture_output=True, text=True, timeout=10, check=True)
    return [route["dst"] for route in json.loads(result.stdout) if route["dst"] != "default"]
