import os
from pathlib import Path

import pytest

from videojob.triton.marks import CancelMarks


@pytest.mark.parametrize(
    "name", ["8f14e45f-1", "../../etc/passwd", "a" * 5000, "ö/\0"], ids=["uid", "path", "long", "odd"]
)
def test_a_mark_is_seen_by_another_process_and_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    CancelMarks(tmp_path / "control").mark(name)
    marks = CancelMarks(tmp_path / "control")
    assert marks.marked(name)
    assert not marks.marked(f"{name}x")
    assert [path.parent for path in tmp_path.rglob("*.cancelled")] == [tmp_path / "control"]
    marks.clear(name)
    marks.clear(name)
    assert not marks.marked(name)


def test_stale_marks_are_swept(tmp_path: Path) -> None:
    marks = CancelMarks(tmp_path)
    marks.mark("old")
    (old,) = tmp_path.iterdir()
    os.utime(old, (1000.0, 1000.0))
    marks.mark("new")
    marks.sweep(before=2000.0)
    assert (marks.marked("old"), marks.marked("new")) == (False, True)
