"""Several shots through the whole system: each with its prompt and memory, and progress of its own."""

from typing import Any

import pytest

from tests.e2e.system import System
from videojob.api.shots import ShotState
from videojob.api.videojob import Phase
from videojob.families import Memory
from videojob.media import probe

pytestmark = pytest.mark.timeout(900)

FOX: dict[str, Any] = {"prompt": "a red fox", "seconds": 2}
OWL: dict[str, Any] = {"prompt": "a grey owl", "seconds": 1}


async def test_a_job_of_three_shots_becomes_one_video(system: System) -> None:
    shots = [FOX, OWL | {"memory": "Keep"}, FOX | {"memory": "Refresh", "seed": 8}]
    await system.submit("three-shots", shots=shots)
    await system.until_chunks("three-shots", 1)
    begun = (await system.job("three-shots")).status

    status = await system.until_finished("three-shots")

    assert status.phase is Phase.SUCCEEDED, status
    assert begun.resolved is not None and status.resolved is not None
    # 12 frames a second. The first shot ends with a chunk, because the second goes on from it.
    assert [(shot.frames, shot.chunks, shot.memory, shot.seed) for shot in status.resolved.shots] == [
        (25, 3, Memory.CLEAR, None),
        (11, 1, Memory.KEEP, None),
        (24, 2, Memory.REFRESH, 8),
    ]
    assert status.resolved.shots == begun.resolved.shots
    assert status.progress is not None and status.output is not None
    assert status.progress.summary == "6/6"
    assert [(shot.chunks_done, shot.seconds_ready, shot.state) for shot in status.progress.shots] == [
        (3, 2.083, ShotState.READY),
        (1, 0.917, ShotState.READY),
        (2, 2.0, ShotState.READY),
    ]
    assert probe(system.path(status.output.uri)).frames == 60
    assert status.output.contact_sheet_uri is not None
    sheet = probe(system.path(status.output.contact_sheet_uri))
    assert (sheet.width, sheet.height) == (2 * 64, 2 * 48), "the middle frame of each shot"


async def test_a_shot_shows_its_own_prompt(system: System) -> None:
    """Of two videos that differ in the prompt of one shot alone, other shots are the same where they remember none."""
    one = await system.undisturbed(shots=[FOX, OWL])
    assert one == await system.undisturbed(shots=[FOX, OWL | {"memory": "Keep"}]), "what is left out is Keep"
    others = ([FOX, FOX], [OWL | {"seconds": 2}, OWL], [FOX, OWL | {"memory": "Refresh"}], [FOX, OWL | {"seed": 8}])
    assert len({one, *[await system.undisturbed(shots=shots) for shots in others]}) == 5
