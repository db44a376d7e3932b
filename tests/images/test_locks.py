"""What the images hold is what was tested, and all that they need."""

import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
IMAGES = REPOSITORY / "images"
IMPORT = "import importlib, sys; sys.path += sys.argv[1:3]; [importlib.import_module(name) for name in sys.argv[3:]]"


def _pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==([^\s;]+)", path.read_text(), re.MULTILINE))


@pytest.mark.parametrize("name", ["videojob", "triton"])
def test_versions_are_those_that_were_tested(name: str) -> None:
    tested = _pins(REPOSITORY / "requirements.lock")
    pins = _pins(IMAGES / f"{name}.lock")
    assert pins
    assert pins.items() <= tested.items(), "run `make lock` and commit the result"


@pytest.mark.parametrize("name", ["videojob", "triton"])
def test_locks_name_no_registry(name: str) -> None:
    assert "://" not in (IMAGES / f"{name}.lock").read_text()


def test_the_control_plane_brings_no_models() -> None:
    assert not {"torch", "diffusers", "transformers"} & _pins(IMAGES / "videojob.lock").keys()


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("videojob", ("videojob.controller.__main__", "videojob.runner.main")),
        ("triton", ("videojob.models.anyflow_far", "videojob.models.stages", "videojob.triton.sequences")),
    ],
)
def test_what_is_locked_suffices(name: str, modules: tuple[str, ...], tmp_path: Path) -> None:
    for package in _pins(IMAGES / f"{name}.lock"):
        found = distribution(package)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(str(found.locate_file(top)))
    # Without the environment's own packages (-S), and without what the shell adds (-I).
    command = (sys.executable, "-I", "-S", "-c", IMPORT, str(tmp_path), str(REPOSITORY / "operator"), *modules)
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
