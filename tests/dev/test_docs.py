"""The docs cover everything that they promise to cover, and their links lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from dev.supervisor import REPOSITORY
from videojob.api.reasons import Reason
from videojob.planner.scaling import ScalingReason

DOCS = REPOSITORY / "docs"
PAGES = (REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")))
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("reason", sorted({*Reason, *ScalingReason}))
def test_every_reason_has_its_line(reason: str) -> None:
    pages = [(DOCS / page).read_text() for page in ("troubleshooting.md", "scaling.md")]
    assert any(re.search(rf"^\|[^|]*`{reason}`", text, re.MULTILINE) for text in pages)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = [link for link in _links(page.read_text()) if not _leads_somewhere(page, link)]
    assert broken == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Some title: here\n[a](#some-title-here) [b](page.md#other) [c](gone.md)\n```\n[d](no-link.md)\n```\n"
    )
    assert [link for link in _links(page.read_text()) if not _leads_somewhere(page, link)] == [
        "page.md#other",
        "gone.md",
    ]


def _links(text: str) -> Iterator[str]:
    """Links to files and headings of this repository."""
    return (link for link in LINK.findall(BLOCK.sub("", text)) if "://" not in link)


def _leads_somewhere(page: Path, link: str) -> bool:
    path, _, heading = unquote(link).partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not heading or heading in _headings(target.read_text()))


def _headings(text: str) -> set[str]:
    """Headings as links name them: lower case, without punctuation, dashes for spaces."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
