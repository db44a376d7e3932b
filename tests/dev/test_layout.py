"""Files stay small enough to be read, and what pyproject.toml promises can be started."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest

from dev.supervisor import REPOSITORY

LINES = 400
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def lines() -> dict[str, int]:
    """Lines of every Python file that git knows."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py")
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True)
    files = (REPOSITORY / name for name in listed.stdout.splitlines())
    return {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in files if path.is_file()}


def test_no_file_is_longer_than_the_limit() -> None:
    assert {name: count for name, count in lines().items() if count > LINES} == {}


@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_every_script_starts(script: str) -> None:
    entry = EntryPoint(script, PROJECT["scripts"][script], "console_scripts")
    code = f"from {entry.module} import {entry.attr} as main; main()"
    started = subprocess.run(
        (sys.executable, "-c", code, "--help"), capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 0, started.stderr
    assert "--namespace" in started.stdout
