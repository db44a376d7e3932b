"""The test's side of `faulty_model`: makes a stage fail or wait where the test wants it."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dev.supervisor import REPOSITORY

Stage = Literal["text_encoder", "denoiser", "vae_decoder"]
When = Literal["before", "step", "after"]


@dataclass(frozen=True)
class Faults:
    """Faults of one server's stages."""

    folder: Path

    def templates(self, target: Path) -> Path:
        """Write model_repo/ to `target`, with these faults in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(REPOSITORY / "model_repo", target, ignore=shutil.ignore_patterns("__pycache__"))
        code = Path(__file__).with_name("faulty_model.py").read_text()
        for stage in ("text_encoder", "denoiser", "vae_decoder"):
            model = target / stage / "1" / "model.py"
            constants = f"\n\nFAULTS, STAGE = {str(self.folder)!r}, {stage!r}\n"
            model.write_text(model.read_text() + constants + code)
        return target

    def fail(self, stage: Stage, chunk: int, when: When = "before", *, times: int = 1) -> None:
        """The stage raises on that chunk, before or after its work, so many times (for ever: -1)."""
        self._ask(stage, {"chunk": chunk, "when": when, "step": 0, "action": "raise", "times": times})

    def break_accelerator(self, stage: Stage, chunk: int, *, times: int = -1) -> None:
        """What the stage does on that chunk breaks its accelerator's context, so many times (for ever: -1)."""
        self._ask(stage, {"chunk": chunk, "when": "before", "step": 0, "action": "break", "times": times})

    def hold(self, stage: Stage, chunk: int, when: When = "before", *, step: int = 0) -> None:
        """The stage waits there until `release`."""
        self._ask(stage, {"chunk": chunk, "when": when, "step": step, "action": "hold", "times": 0})

    def release(self, stage: Stage) -> None:
        """The stage goes on, and fails no more."""
        (self.folder / f"{stage}.json").unlink(missing_ok=True)

    def reached(self, stage: Stage) -> bool:
        """Whether the stage has come to where it fails or waits."""
        return (self.folder / f"{stage}.reached").exists()

    def steps(self, stage: Stage) -> list[tuple[int, int, bool]]:
        """Every step since `clear`, as chunk, step (from 1) and whether the sequence was to stop."""
        log = self.folder / f"{stage}.log"
        rows = (line.split() for line in log.read_text().splitlines()) if log.exists() else ()
        return [(int(chunk), int(step), marked == "1") for chunk, step, marked in rows]

    def clear(self) -> None:
        """No faults, and nothing reached."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def _ask(self, stage: Stage, fault: dict[str, object]) -> None:
        (self.folder / f"{stage}.reached").unlink(missing_ok=True)
        new = self.folder / f"{stage}.new"
        new.write_text(json.dumps(fault))
        new.replace(self.folder / f"{stage}.json")
