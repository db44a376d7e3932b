"""Watches that end without a word are noticed: liveness rests on it."""

import asyncio

from videojob.controller.shell import dead_watches, watchers


async def test_a_watch_is_dead_when_its_task_is_gone() -> None:
    assert dead_watches(None) == watchers(None)
    first, *others = sorted(watchers(None))
    task = asyncio.create_task(asyncio.Event().wait(), name=first)
    assert dead_watches(None) == set(others)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert dead_watches(None) == watchers(None)
