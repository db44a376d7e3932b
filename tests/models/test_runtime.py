"""What a stage's process is set to."""

import subprocess
import sys

FAULTS = """
import resource, sys
import torch
from videojob.models.runtime import keep_memory

def faults(count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        tensors = [torch.ones(2 << 20) for _ in range(4)]
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_memory()
faults(1)
print(faults(20))
"""
PAGES = 20 * 4 * (8 << 20) // 4096
"""That 20 rounds of four tensors of 8 MiB take."""


def faulted(how: str) -> int:
    """Page faults of taking the same memory again and again, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, timeout=120)
    return int(done.stdout)


def test_memory_that_is_freed_is_not_mapped_anew() -> None:
    assert faulted("kept") < PAGES / 20
