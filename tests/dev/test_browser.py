"""Where the browser of the tests, and the player in it, come from."""

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from dev import browser
from dev.browser import chromium, player
from dev.errors import DevError


def test_an_installed_browser_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chromium"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium(cache=tmp_path / "cache").path == path
    assert not (tmp_path / "cache").exists()


def test_what_is_in_the_cache_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for name in (browser.PACKAGE, browser.PLAYER):
        (tmp_path / name).mkdir()
    assert chromium(cache=tmp_path).path.is_relative_to(tmp_path)
    assert player(cache=tmp_path).is_relative_to(tmp_path)


def test_the_browser_that_was_fetched_runs() -> None:
    found = chromium()
    done = subprocess.run(
        (str(found.path), "--no-sandbox", "--version"),
        env=dict(found.environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Chrom" in done.stdout


@pytest.mark.parametrize(("fetch", "lacks"), [(chromium, "apt"), (player, "npm")], ids=["apt", "npm"])
def test_a_machine_that_cannot_fetch_says_what_to_install(
    fetch: object, lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(fetch)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DevError, match=f"no {lacks}.*install"):
        fetch(cache=tmp_path)
    assert not any(path.is_dir() and any(path.iterdir()) for path in tmp_path.iterdir())


def test_a_player_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever registry npm is configured for."""
    tools = tmp_path / "tools"
    tools.mkdir()
    with tarfile.open(tools / "other.tgz", "w:gz") as archive:
        content = b"something else"
        member = tarfile.TarInfo("package/dist/hls.min.js")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    npm = tools / "npm"
    npm.write_text(f"#!/bin/sh\n{shutil.which('cp')} {tools}/other.tgz .\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(tools), "/nowhere")))
    with pytest.raises(DevError, match="not what was pinned"):
        player(cache=tmp_path / "cache")
    assert not (tmp_path / "cache" / browser.PLAYER).exists()
