"""The tables of reasons in the docs are those of the code."""

import pytest

from dev.errors import DevError
from dev.reasons_doc import NORMAL, document
from dev.supervisor import REPOSITORY
from videojob.api.reasons import Reason, Scope

PAGE = REPOSITORY / "docs" / "troubleshooting.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == document(PAGE.read_text()), "run `make generate` and commit the result"


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_its_row(reason: Reason) -> None:
    assert f"| `{reason}` | " in PAGE.read_text()


def test_a_page_without_a_table_of_a_scope_is_refused() -> None:
    names = [str(scope.name).lower() for scope in Scope] + [NORMAL]
    page = "".join(f"# {name}\n<!-- reasons: {name} -->\nstale row\n<!-- end -->\n" for name in names)
    written = document(page)
    assert "stale row" not in written
    assert document(written) == written
    with pytest.raises(DevError, match="waiting"):
        document(page.replace("reasons: waiting", "reasons: sleeping"))
