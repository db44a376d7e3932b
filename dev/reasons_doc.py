"""Writes the tables of reasons into a page: `python -m dev.reasons_doc FILE`.

A table stands between two comments, `<!-- reasons: SCOPE -->` and `<!-- end -->`, where SCOPE is the name of a `Scope`,
or `normal` for the states that need no action. The rest of the page is written by hand.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from dev.errors import DevError
from videojob.api.reasons import REASONS, Reason, ReasonInfo, ResolvedBy, Scope

NORMAL = "normal"
_TABLE = re.compile(r"(?<=<!-- reasons: )([a-z ]+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)
_HEADER = "| reason | meaning | resolved by | what to do |\n|---|---|---|---|\n"


def document(page: str) -> str:
    """The page with its tables made anew.

    Raises:
        DevError: the page has no table for a scope, or one for a scope that does not exist.
    """
    names = {table[1] for table in _TABLE.finditer(page)}
    known = {str(scope.name).lower() for scope in Scope} | {NORMAL}
    if names != known:
        raise DevError(f"The page has tables for {sorted(names)}, and should have some for {sorted(known)}.")
    return _TABLE.sub(lambda table: table[1] + table[2] + _HEADER + "".join(_rows(table[1])), page)


def _rows(name: str) -> Iterator[str]:
    for reason, info in REASONS.items():
        if name == NORMAL:
            if _is_normal(info):
                yield _row(reason, info)
        elif Scope[name.upper()] in info.scope and not _is_normal(info):
            yield _row(reason, info)


def _is_normal(info: ReasonInfo) -> bool:
    return info.resolved_by is ResolvedBy.NOBODY and Scope.ENDED not in info.scope


def _row(reason: Reason, info: ReasonInfo) -> str:
    return f"| `{reason}` | {info.meaning} | {info.resolved_by.value} | {info.remedy or 'Nothing.'} |\n"


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Write the tables of reasons into a page.")
    parser.add_argument("file", type=Path)
    file: Path = parser.parse_args().file
    file.write_text(document(file.read_text()))


if __name__ == "__main__":
    main()
