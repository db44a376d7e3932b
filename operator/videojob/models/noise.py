"""The noise that a unit is made from."""

import hashlib
import struct

import torch


class Noise:
    """Normal noise of one unit, float32 on the CPU, that depends on nothing but its names.

    Not drawn from a stream: a unit gets the same noise whether or not those before it were made here, and however many
    of its steps were.
    """

    def __init__(self, seed: int, shot: int, unit: int) -> None:
        self._key = struct.pack("<qqq", seed, shot, unit)

    def __call__(self, shape: tuple[int, ...], name: str = "", step: int = 0) -> torch.Tensor:
        """Noise of `shape`. What a unit starts from has no name; a family names what else it draws, at which step."""
        return torch.randn(shape, generator=self.generator(name, step), dtype=torch.float32, device="cpu")

    def generator(self, name: str = "", step: int = 0) -> torch.Generator:
        """What draws that noise, for code that draws by itself."""
        key = self._key + (struct.pack("<q", step) + name.encode() if name else b"")
        digest = hashlib.sha256(key).digest()
        return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little", signed=True))
