"""The table of model families in the docs is that of the code."""

import pytest

from dev.errors import DevError
from dev.families_doc import document
from dev.supervisor import REPOSITORY
from videojob.families import FamilyName

PAGE = REPOSITORY / "docs" / "add-a-model.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == document(PAGE.read_text()), "run `make generate` and commit the result"


@pytest.mark.parametrize("family", FamilyName)
def test_every_family_has_its_row(family: FamilyName) -> None:
    assert f"| `{family}` | " in PAGE.read_text()


def test_a_page_without_the_table_is_refused() -> None:
    page = "# Families\n<!-- families -->\nstale row\n<!-- end -->\n"
    written = document(page)
    assert "stale row" not in written
    assert document(written) == written
    with pytest.raises(DevError, match="no table of families"):
        document("# Families\n")
