"""Collections look at what is new; what has stayed is in none of them, and yet freed by its last reference."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from videojob.controller import garbage


class Node:
    """Something that can be part of a cycle."""

    other: "Node | None" = None


@pytest.fixture
def freezing() -> Iterator[None]:
    garbage.freeze_survivors()
    garbage.freeze_survivors()
    yield
    gc.callbacks.remove(garbage._after)
    assert garbage._after not in gc.callbacks
    gc.unfreeze()


@pytest.mark.usefixtures("freezing")
def test_what_survives_a_full_collection_is_in_no_later_one_but_still_freed() -> None:
    kept = Node()
    there = weakref.ref(kept)
    gc.collect(1)
    assert any(found is kept for found in gc.get_objects()), "a young collection freezes nothing"
    gc.collect()
    assert gc.get_freeze_count() > 0
    assert not any(found is kept for found in gc.get_objects())
    del kept
    assert there() is None


@pytest.mark.usefixtures("freezing")
def test_what_is_garbage_by_then_is_collected_not_frozen() -> None:
    gc.collect()
    one, other = Node(), Node()
    one.other, other.other = other, one
    there = weakref.ref(one)
    del one, other
    gc.collect()
    assert there() is None


@pytest.mark.usefixtures("freezing")
def test_the_unfrozen_stay_few_however_many_objects_there_are() -> None:
    gc.collect()
    gc.collect()  # How soon the next one comes depends on how much the last one has found alive.
    kept: list[Node] = []
    most = 0
    for _ in range(20):
        kept += [Node() for _ in range(20_000)]
        most = max(most, len(gc.get_objects()))
    assert most < len(kept) / 2
