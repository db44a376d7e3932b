"""Writes the table of model families into a page: `python -m dev.families_doc FILE`.

It stands between two comments, `<!-- families -->` and `<!-- end -->`. The rest of the page is written by hand.
"""

import argparse
import inspect
import re
from pathlib import Path

from diffusers import DiffusionPipeline

from dev.errors import DevError
from videojob.families import ADAPTED, BEGUN_WITH_IMAGES, FAMILIES, SAMPLED, Chunking, FamilyName, Memory, Shot, Video
from videojob.models.family import family_module

_TABLE = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- end -->)", re.DOTALL)
_HEADER = (
    "| `family` | pipelines of diffusers | of two shots of 10 s it makes | a shot may | `sampling` | `adapters` "
    "| `images` |\n|---|---|---|---|---|---|---|\n"
)
_CHUNKING = Chunking(first=1, later=3, sink=1, window=12)
"""A VideoModel's defaults."""
_FPS, _SECONDS = 16, 10


def document(page: str) -> str:
    """The page with its table made anew. Raises DevError where it has none."""
    if not _TABLE.search(page):
        raise DevError(
            "The page has no table of families: it begins with <!-- families --> and ends with <!-- end -->."
        )
    return _TABLE.sub(_HEADER + "".join(map(_row, FamilyName)), page)


def _row(name: FamilyName) -> str:
    usual, *others = FAMILIES[name].memories
    memories = ", ".join([f"**{usual}**", *others])
    able = [_may(name in each) for each in (SAMPLED, ADAPTED, BEGUN_WITH_IMAGES)]
    cells = (f"`{name}`", _pipelines(name), _units(name), memories, *able)
    return f"| {' | '.join(cells)} |\n"


def _pipelines(name: FamilyName) -> str:
    """Those that the family's module loads folders of."""
    found = {
        value.__name__
        for value in vars(family_module(name)).values()
        if inspect.isclass(value) and issubclass(value, DiffusionPipeline) and value is not DiffusionPipeline
    }
    return ", ".join(f"`{pipeline}`" for pipeline in sorted(found))


def _units(name: FamilyName) -> str:
    """How many units and pieces, with a VideoModel's defaults, at 16 frames a second."""
    shot = Shot(_SECONDS * _FPS, FAMILIES[name].memories[0])
    plan = FAMILIES[name].plan(_CHUNKING, Video((Shot(shot.frames, Memory.CLEAR), shot), _FPS, steps=1))
    return f"{len(plan.units)} units, {len(plan.pieces)} pieces"


def _may(allowed: bool) -> str:
    return "yes" if allowed else "no"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write the table of model families into a page.")
    parser.add_argument("file", type=Path)
    file: Path = parser.parse_args().file
    file.write_text(document(file.read_text()))


if __name__ == "__main__":
    main()
