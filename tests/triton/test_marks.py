import os
from pathlib import Path

import pytest

from videojob.triton.contract import Mark
from videojob.triton.marks import Marks


@pytest.mark.parametrize(
    "name", ["8f14e45f-1", "../../etc/passwd", "a" * 5000, "ö/\0"], ids=["uid", "path", "long", "odd"]
)
@pytest.mark.parametrize("mark", Mark)
def test_a_mark_is_seen_by_another_process_and_stays_in_its_folder(tmp_path: Path, name: str, mark: Mark) -> None:
    Marks(tmp_path / "control").mark(name, mark)
    marks = Marks(tmp_path / "control")
    assert marks.marked(name, 0) is mark
    assert marks.marked(f"{name}x", 0) is None
    assert [path.parent for path in tmp_path.rglob("*.mark")] == [tmp_path / "control"]
    marks.clear(name, 0)
    marks.clear(name, 0)
    assert marks.marked(name, 0) is None


def test_the_last_mark_counts(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    for mark in (Mark.PAUSE, Mark.CANCEL):
        marks.mark("job", mark)
    assert marks.marked("job", 0) is Mark.CANCEL
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("marked", "run", "stops"),
    [(None, 1, True), (1, 1, True), (2, 1, True), (1, 2, False)],
    ids=["any run", "this run", "a later run", "an earlier run"],
)
def test_a_mark_is_for_a_run_and_those_before(tmp_path: Path, marked: int | None, run: int, stops: bool) -> None:
    """One that is left, because the stage's process ended before it was cleared, does not stop the next run."""
    marks = Marks(tmp_path)
    marks.mark("job", Mark.CANCEL, marked)
    assert (marks.marked("job", run) is Mark.CANCEL) == stops


def test_the_end_of_a_run_leaves_the_mark_of_a_later_one(tmp_path: Path) -> None:
    """It may come late, where the one who sent it did not wait for it."""
    marks = Marks(tmp_path)
    marks.mark("job", Mark.PAUSE, 2)
    marks.clear("job", 1)
    assert marks.marked("job", 2) is Mark.PAUSE
    marks.clear("job", 2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"mark": "stop", "run": 1}', '{"mark": "pause"}'])
def test_a_mark_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    marks = Marks(tmp_path)
    marks.mark("job", Mark.CANCEL)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert marks.marked("job", 0) is None


def test_stale_marks_are_swept(tmp_path: Path) -> None:
    marks = Marks(tmp_path)
    marks.mark("old", Mark.CANCEL)
    (old,) = tmp_path.iterdir()
    os.utime(old, (1000.0, 1000.0))
    marks.mark("new", Mark.CANCEL)
    marks.sweep(before=2000.0)
    assert (marks.marked("old", 0), marks.marked("new", 0)) == (None, Mark.CANCEL)
