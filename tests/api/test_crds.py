"""The CRDs in the repository are those that the types describe."""

import subprocess
import sys
from pathlib import Path

from videojob.api.crds import KINDS

CRDS = Path(__file__).parents[2] / "manifests" / "crds"


def test_committed_crds_are_the_generated_ones(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "videojob.api.crds", str(tmp_path)], check=True)
    generated = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in CRDS.iterdir()}
    assert generated == committed, "run `make generate` and commit the result"
    assert len(generated) == len(KINDS)
