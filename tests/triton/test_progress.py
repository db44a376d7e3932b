"""A stage's note of its progress: what it shows, and that nobody else's process is ever ended by it."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.triton.server import PLAN, SETTINGS
from videojob.triton.progress import Progress, ProgressNotes, StageProgress, read_progress, size_of
from videojob.triton.wire import UnitRequest

WANTED = UnitRequest(PLAN.units[0], SETTINGS)
STAGE = """
import sys
from pathlib import Path
from videojob.triton.progress import StageProgress
StageProgress(Path(sys.argv[1]), sys.argv[2])
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The process of a stage `tiny.denoiser` that does nothing any more."""
    command = [sys.executable, "-c", STAGE, str(tmp_path), "tiny.denoiser"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("name", ["wan2.1-tiny.denoiser", "../../etc/passwd", "ö/\0"], ids=["stage", "path", "odd"])
def test_a_note_counts_requests_and_steps_and_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    notes, progress = ProgressNotes(tmp_path / "control"), StageProgress(tmp_path / "control", name)
    seen = [notes.of(name)]
    with progress.on(WANTED):
        seen.append(notes.of(name))
        assert [progress.stepped(lambda: "asked")() for _ in range(2)] == ["asked"] * 2
        seen.append(notes.of(name))
    seen.append(notes.of(name))

    assert [(note.count, note.size) for note in seen if note] == [
        (0, 0),
        (1, size_of(WANTED)),
        (3, size_of(WANTED)),
        (4, 0),
    ]
    assert [path.parent for path in tmp_path.rglob("*.progress")] == [tmp_path / "control"]


def test_a_request_that_fails_leaves_an_idle_stage(tmp_path: Path) -> None:
    notes, progress = ProgressNotes(tmp_path), StageProgress(tmp_path, "s")

    with pytest.raises(RuntimeError), progress.on(WANTED):
        raise RuntimeError

    note = notes.of("s")
    assert note is not None and (note.count, note.size) == (2, 0)


def test_where_no_note_can_be_written_there_is_none_rather_than_an_old_one(tmp_path: Path) -> None:
    """As on a full disk: a stage that works must not look as if it did not."""
    notes, progress = ProgressNotes(tmp_path), StageProgress(tmp_path, "s")
    assert notes.of("s") is not None
    blocked = notes.file("s").with_suffix(".new")
    blocked.mkdir()

    with progress.on(WANTED):
        assert progress.stepped(lambda: "asked")() == "asked"
        assert notes.of("s") is None

        blocked.rmdir()
        progress.stepped(lambda: "asked")()
        assert notes.of("s") is not None


def test_a_unit_that_looks_back_is_larger_than_one_that_does_not() -> None:
    sizes = [size_of(UnitRequest(unit, SETTINGS)) for unit in PLAN.units[:8]]
    assert sizes == sorted(sizes)
    assert 0 < sizes[0] < sizes[1] < sizes[3] == sizes[7]
    assert size_of(UnitRequest(PLAN.units[3], replace(SETTINGS, width=96))) == 2 * sizes[3]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"pid": 1}', b"7"])
def test_what_is_no_note_is_none(tmp_path: Path, text: bytes) -> None:
    notes = ProgressNotes(tmp_path)
    assert notes.of("s") is None
    notes.file("s").write_bytes(text)
    assert read_progress(text) is notes.of("s") is None


def test_a_process_that_does_nothing_is_ended(tmp_path: Path, stage: "subprocess.Popen[str]") -> None:
    notes = ProgressNotes(tmp_path)
    seen = notes.of("tiny.denoiser")
    assert seen is not None and seen.pid == stage.pid

    assert notes.end("tiny.denoiser", seen)

    assert stage.wait(timeout=60) == -9
    assert notes.end("tiny.denoiser", seen), "it is gone, whoever has ended it"


@pytest.mark.parametrize(
    ("noted", "seen", "gone"),
    [
        ({"count": 1}, {}, False),
        ({"began": -1}, {"began": -1}, True),
        ({"pid": 2**22 + 1}, {"pid": 2**22 + 1}, True),
    ],
    ids=["it has made a step since", "another one has the pid by now", "there is no such process"],
)
def test_no_other_process_is_ended(
    tmp_path: Path, stage: "subprocess.Popen[str]", noted: dict[str, int], seen: dict[str, int], gone: bool
) -> None:
    notes = ProgressNotes(tmp_path)
    note = notes.of("tiny.denoiser")
    assert note is not None
    notes.file("tiny.denoiser").write_bytes(replace(note, **noted).to_json())

    assert notes.end("tiny.denoiser", replace(note, **seen)) is gone
    assert not notes.end("tiny.vae_decoder", note)

    assert stage.poll() is None


def test_a_note_survives_the_wire() -> None:
    note = Progress(7, 1234, 5, 6)
    assert read_progress(note.to_json()) == note
