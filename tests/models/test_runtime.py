"""What a stage's process is set to."""

import ctypes
import subprocess
import sys
from pathlib import Path

from videojob.models.runtime import FATAL

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
faults(20)
print(faults(20))
"""
PAGES = 20 * 4 * (8 << 20) // 4096
"""That 20 rounds of four tensors of 8 MiB take."""


def faulted(how: str) -> int:
    """Page faults of taking the same memory again and again, once the heap has grown, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True, text=True, timeout=120)
    return int(done.stdout)


def test_memory_that_is_freed_is_not_mapped_anew() -> None:
    assert faulted("kept") < PAGES / 20


def test_what_is_fatal_is_said_in_the_words_of_cuda() -> None:
    """Codes whose documentation says that the process must be started anew; and of memory and links that are broken."""
    found = [*Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/lib/libcudart.so*")]
    assert found, "torch was installed without its CUDA libraries, which requirements.lock has"
    cuda = ctypes.CDLL(str(found[0]))
    cuda.cudaGetErrorString.restype = ctypes.c_char_p
    codes = (214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911)
    assert tuple(cuda.cudaGetErrorString(code).decode() for code in codes) == FATAL
