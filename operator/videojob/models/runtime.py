"""Torch made predictable, and its failures made readable."""

import ctypes
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from videojob.triton.contract import ChunkError, ErrorCode, Precision

# Of glibc's mallopt(3): free memory at the top of the heap from which it is given back, and the size of a block that is
# mapped by itself, which is at its highest.
_TRIM_THRESHOLD = (-1, 1 << 30)
_MMAP_THRESHOLD = (-3, 32 << 20)

FATAL = (
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected during the execution",
    "Invalid access of peer GPU memory over nvlink or a hardware error",
    "an illegal memory access was encountered",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "hardware stack error",
    "an illegal instruction was encountered",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "unspecified launch failure",
    "tensor memory not completely freed",
    "the MPS client has been terminated by the server",
    "an async error has occured in external entity outside of CUDA",
)
"""What cudaGetErrorString calls the errors after which every call of the process fails, until it is started anew."""

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def keep_memory() -> None:
    """Have the C library keep what is freed, where it is glibc.

    Torch frees and takes the same tensors at every step on a CPU. Where they were given back to the kernel, each page
    is mapped and cleared anew: the benchmark's VAE took 9.3 s in place of 7.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(*_TRIM_THRESHOLD)
        mallopt(*_MMAP_THRESHOLD)


def fix_kernels(threads: int) -> None:
    """Make equal inputs give equal bytes: a fixed number of threads, no kernels chosen by timing them."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def chunk_errors(what: str) -> Iterator[None]:
    """Turn what a model raises into a ChunkError: OutOfMemory, AcceleratorFailed, or ModelFailed.

    The last two have the first line of the message.
    """
    try:
        yield
    except ChunkError:
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            # The frames that it came through hold what was allocated in them, and the cache would keep that.
            traceback.clear_frames(error.__traceback__)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise ChunkError(
                ErrorCode.OUT_OF_MEMORY, f"{what} ran out of memory. Lower the resolution or the jobs on this replica."
            ) from error
        first_line = next(iter(str(error).splitlines()), "no message")
        reason = ErrorCode.ACCELERATOR_FAILED if _is_fatal(error) else ErrorCode.MODEL_FAILED
        raise ChunkError(reason, f"{what} failed: {type(error).__name__}: {first_line}") from error


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _is_fatal(error: Exception) -> bool:
    # A torch.AcceleratorError, or a plain RuntimeError of an extension's own macro, both with CUDA's words.
    return isinstance(error, RuntimeError) and any(f"CUDA error: {words}" in str(error) for words in FATAL)
