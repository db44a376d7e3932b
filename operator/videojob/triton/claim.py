"""Which runner drives a server: of two runners of one replica the newer one, whose number is higher.

A runner claims the server through the `control` model. The stages refuse requests with a lower number than that of the
claim: those of a runner that was replaced, or was cut off from the API server and does not know it. The claim is a file
in the folder that all models of a server share, so it outlives a restart of Triton.
"""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from videojob.triton.contract import ChunkError, ErrorCode


@dataclass(frozen=True)
class Claim:
    """A runner's claim. The first holder of a Lease claims with 0."""

    number: int
    identity: str


UNCLAIMED = Claim(-1, "")


class ServerClaim:
    """The claim that is in force. One process writes it, the control model's; all others only read."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "claim.json"
        directory.mkdir(parents=True, exist_ok=True)

    def current(self) -> Claim:
        """The claim in force; `UNCLAIMED` where nobody has claimed the server, or the file is torn."""
        try:
            return Claim(**json.loads(self._file.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return UNCLAIMED

    def claim(self, claim: Claim) -> Claim:
        """Put the claim in force, unless another runner's with as high a number is; the one in force after that."""
        current = self.current()
        if claim.number < current.number or (claim.number == current.number and claim.identity != current.identity):
            return current
        if claim != current:
            new = self._file.with_name(f".claim-{secrets.token_hex(4)}")
            new.write_text(json.dumps(asdict(claim)))
            new.replace(self._file)
        return claim

    def superseded(self, number: int) -> bool:
        """Whether a newer runner than the one with that number has claimed the server."""
        return number < self.current().number

    def check(self, number: int) -> None:
        """Raises ChunkError (Superseded) where a newer runner has claimed the server."""
        current = self.current()
        if number < current.number:
            raise ChunkError(
                ErrorCode.SUPERSEDED,
                f"Another runner, {current.identity}, drives this Triton since its claim {current.number}; "
                f"the request is of claim {number}. Run one runner for each endpoint.",
            )
