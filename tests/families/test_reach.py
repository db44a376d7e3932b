"""A family is named in its arithmetic, in its module and where that is found, and nowhere else in the product."""

import re
from pathlib import Path

import pytest

from dev.supervisor import REPOSITORY
from videojob.families import FamilyName

SOURCE = REPOSITORY / "operator" / "videojob"
FINDS = SOURCE / "models" / "family.py"
"""Where a family's module is found."""


def knowing(family: FamilyName) -> set[Path]:
    """The files of the product that name the family."""
    names = re.compile(rf"\bFamilyName\.{family.name}\b|(['\"]){family.value}\1")
    files = [*SOURCE.rglob("*.py"), *(REPOSITORY / "model_repo").rglob("*.py")]
    return {path for path in files if names.search(path.read_text())}


@pytest.mark.parametrize("family", FamilyName)
def test_a_family_touches_its_arithmetic_and_its_module(family: FamilyName) -> None:
    found = knowing(family)

    assert FINDS in found, "the search finds nothing"
    (module,) = re.findall(rf"FamilyName\.{family.name}: \"videojob\.models\.(\w+)\"", FINDS.read_text())
    allowed = {FINDS, *(SOURCE / "models").glob(f"{module}*.py"), *(SOURCE / "families").glob("*.py")}
    assert {str(path.relative_to(REPOSITORY)) for path in found - allowed} == set()
