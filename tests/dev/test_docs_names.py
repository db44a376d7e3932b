"""The docs name only what exists: files, modules, targets of make, metrics, panels, fields of resources and values."""

import json
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import pytest
import yaml

from dev.chart import CHART, CRDS
from dev.supervisor import REPOSITORY
from tests.observability.exported import exported

SPAN = re.compile(r"`([^`\n]+)`")
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
SUFFIXES = (".py", ".md", ".yaml", ".json", ".toml", ".tpl", ".sh", ".mod", ".lock", ".Dockerfile")
FIELD = re.compile(r"[a-z]\w*(?:\.[a-z]\w*(?:\[\])?)+")
OF_OTHERS = ("metadata.", "videojob.", "store.env")
"""Beginnings of what looks like a field of ours: fields of every object, Python modules, a file of the reader."""


@cache
def tracked() -> tuple[str, ...]:
    """Files that git knows and their folders, relative to the repository."""
    out = subprocess.run(("git", "ls-files"), cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    files = {PurePosixPath(line) for line in out.splitlines()}
    return tuple(sorted(map(str, files | {folder for file in files for folder in file.parents})))


PAGES = [name for name in tracked() if name.endswith(".md")]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    assert list(_missing((REPOSITORY / page).read_text(), PurePosixPath(page).parent)) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`docs/nowhere.md`", "docs/nowhere.md"),
        ("`planner/nothing.py`", "planner/nothing.py"),
        ("```\nkubectl apply -f manifests/none.yaml\n```", "manifests/none.yaml"),
        ("`python -m videojob.nothing`", "videojob.nothing"),
        ("`make nothing`", "make nothing"),
        ("`videojob_nothing_total`", "videojob_nothing_total"),
        ("`spec.template.nothing`", "spec.template.nothing"),
    ],
)
def test_a_name_of_nothing_is_found(text: str, missing: str) -> None:
    assert list(_missing(text, PurePosixPath("docs"))) == [missing]


@pytest.mark.parametrize("page", [page for page in PAGES if fnmatch(page, "docs/runbooks/V*")])
def test_panels_that_a_runbook_names_exist(page: str) -> None:
    """A runbook names them in quotes, as in: Dashboard *videojob / Operator*: "Who leads"."""
    text = BLOCK.sub("", (REPOSITORY / page).read_text()).replace("\n", " ")
    sentences = re.findall(r"Dashboards? ?[^.]*?\*[^.]*\.|Dashboards?: [^.]*\.", text)
    assert sentences
    titles = {
        panel["title"]
        for path in (CHART / "dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
    }
    named = {title for sentence in sentences for title in re.findall(r'"([^"]+)"', sentence)}
    assert named - titles == set()


def _missing(text: str, folder: PurePosixPath) -> Iterator[str]:
    """What the text of a page in `folder` names and does not exist."""
    for name in (*_paths(text), *_paths_in_commands(text)):
        if not _exists(name, folder):
            yield name
    for module in re.findall(r"python -m ([\w.]+)", text):
        name = module.replace(".", "/")
        if module != "pytest" and not ({f"{name}.py", f"{name}/__main__.py"} & _modules()):
            yield module
    targets = set(" ".join(re.findall(r"^([a-z -]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)).split())
    yield from (f"make {target}" for target in re.findall(r"`make ([a-z-]+)`", text) if target not in targets)
    for metric in re.findall(r"\bvideojob_\w+", text):
        if metric not in exported() and f"{metric}_bucket" not in exported():
            yield metric
    for field in filter(FIELD.fullmatch, SPAN.findall(BLOCK.sub("", text))):
        if not field.endswith(SUFFIXES) and not field.startswith(OF_OTHERS) and not _is_field(field.replace("[]", "")):
            yield field


def _paths(text: str) -> Iterator[str]:
    """What stands in backticks and has the suffix of our files, or begins with a folder of the repository."""
    for span in filter(PATH.fullmatch, SPAN.findall(BLOCK.sub("", text))):
        top, slash, _ = span.partition("/")
        if span.endswith(SUFFIXES) or (slash and top in tracked()):
            yield span


def _paths_in_commands(text: str) -> Iterator[str]:
    """What begins with a folder of the repository in a block of commands."""
    for block in BLOCK.findall(text):
        for path in re.findall(r"(?<![\w./:-])[\w.-]+/[\w./-]+", block):
            if path.partition("/")[0] in tracked():
                yield path


def _exists(name: str, folder: PurePosixPath) -> bool:
    """Whether a file has that path from the repository, from the page's folder, or as the end of its own."""
    pattern = name.rstrip("/")
    return any(fnmatch(path, each) for path in tracked() for each in (pattern, f"{folder / pattern}", f"*/{pattern}"))


@cache
def _modules() -> frozenset[str]:
    return frozenset(path.removeprefix("operator/") for path in tracked() if path.endswith(".py"))


@cache
def _fields() -> frozenset[str]:
    """Dotted paths of the CRDs' fields and of the chart's values; `*` where any name may follow."""
    schemas = (yaml.safe_load(path.read_text())["spec"]["versions"][0]["schema"] for path in CRDS.glob("*.yaml"))
    found = {path for schema in schemas for path in _of_schema(schema["openAPIV3Schema"], "")}
    return frozenset(found | set(_of_values(yaml.safe_load((CHART / "values.yaml").read_text()), "")))


def _of_schema(schema: dict[str, Any], before: str) -> Iterator[str]:
    for name, part in schema.get("properties", {}).items():
        yield f"{before}{name}"
        yield from _of_schema(part, f"{before}{name}.")
    if "items" in schema:
        yield from _of_schema(schema["items"], before)
    if "additionalProperties" in schema:
        yield f"{before}*"


def _of_values(values: dict[str, Any], before: str) -> Iterator[str]:
    for name, value in values.items():
        yield f"{before}{name}"
        if isinstance(value, dict):
            yield from _of_values(value, f"{before}{name}.")


def _is_field(name: str) -> bool:
    """Whether a field has that path, from the object or from a part of it."""
    return any(fnmatch(name, path) or path.endswith(f".{name}") for path in _fields())
