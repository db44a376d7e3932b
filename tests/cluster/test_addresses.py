"""A cluster's addresses clash with nothing of the machine, nor with themselves."""

from ipaddress import ip_address, ip_network
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dev.cluster.addresses import Addresses, choose
from dev.errors import DevError

FOLDER = Path("/somewhere")
blocks = st.integers(0, 255).map(lambda number: f"10.{number}.0.0/16")


@given(st.integers(0, 255))
def test_parts_of_a_block_are_apart(number: int) -> None:
    addresses = Addresses(number)
    block = ip_network(addresses.block)
    parts = [ip_network(part) for part in (f"10.{number}.0.0/30", addresses.services, addresses.pods)]
    assert all(part.subnet_of(block) for part in parts)  # type: ignore[arg-type]
    assert not any(one.overlaps(other) for one, other in combinations(parts, 2))
    assert ip_address(addresses.dns) in parts[1]
    assert ip_address(addresses.network.api_server) in parts[1]
    assert addresses.dns != addresses.network.api_server


@given(st.lists(blocks, max_size=60))
def test_a_used_network_is_not_chosen(used: list[str]) -> None:
    assert choose(FOLDER, used).block not in used


def test_a_folder_keeps_its_block_while_it_is_free() -> None:
    first = choose(FOLDER, [])
    assert choose(FOLDER, ["192.168.0.0/24", "fd00::/64"]) == first
    assert choose(FOLDER, [f"{first.node}/32"]) != first


def test_an_error_names_the_range_where_every_block_is_used() -> None:
    with pytest.raises(DevError, match=r"10\.96\.0\.0/16 to 10\.191\.0\.0/16 is used"):
        choose(FOLDER, ["10.0.0.0/8"])
