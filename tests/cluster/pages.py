"""Commands of the documentation, as a person copies them."""

import os
import re
import subprocess
from pathlib import Path

from dev.programs import program
from dev.supervisor import REPOSITORY

BLOCK_SECONDS = 700
"""The longest wait of a block is one of 10 minutes."""


def blocks(page: str, section: str) -> list[str]:
    """The blocks without a language in a section of docs/PAGE.md, without the sections below it."""
    text = (REPOSITORY / "docs" / f"{page}.md").read_text()
    found = re.search(rf"^#+ {re.escape(section)}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/{page}.md has no section {section!r}"
    return re.findall(r"^```\n(.*?)^```$", found[1], re.MULTILINE | re.DOTALL)


def copied(block: str, folder: Path, kubeconfig: Path) -> str:
    """Run a block in a shell with kubectl and helm on PATH, in a folder with the charts; returns its output."""
    for name in ("charts", "manifests"):
        link = folder / name
        if not link.exists():
            link.symlink_to(REPOSITORY / name)
    path = f"{program('kubectl').parent}:{program('helm').parent}:{os.environ['PATH']}"
    result = subprocess.run(
        ("bash", "-euo", "pipefail", "-c", block),
        cwd=folder,
        env={**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=BLOCK_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
    return result.stdout
