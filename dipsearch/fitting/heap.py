"""Memory that stays: the C library's allocator, told to keep what a step frees for the next one."""

import ctypes
import functools
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h
PAD = 64 * 2**20  # bytes asked for at a time
WORTH_KEEPING = 768 * 2**20  # bytes of a fit
HOLES = 1.15  # a kept heap, over what lives in it: holes that nothing fits; measured
DEFAULTS = (
    (M_MMAP_MAX, 65536),
    (M_MMAP_THRESHOLD, 32 * 2**20),
    (M_TRIM_THRESHOLD, 64 * 2**20),
    (M_TOP_PAD, 128 * 1024),
)


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """glibc, where that is what runs here."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version") else None


def keep() -> None:
    """Stop giving freed blocks back to the system.

    glibc maps a block above 32 MiB anew at every allocation, and gives the top of its heap back; the kernel
    then clears each page again on first use. A fit allocates the same maps in every step: without this, a
    third of a step on the CPU is spent in page faults. Does nothing where the C library is another.
    """
    if (libc := _libc()) is not None:
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_TOP_PAD, PAD)


def prepare(kept: bool) -> None:
    """Before a fit: `keep` or `default`, and give back what an earlier one left."""
    give_back()
    if kept:
        keep()
    else:
        default()


def give_back() -> None:
    """Give what is free to the system, once."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


def default() -> None:
    """As a process has it that allocates large blocks: the thresholds glibc has adapted to."""
    if (libc := _libc()) is not None:
        for option, value in DEFAULTS:
            libc.mallopt(option, value)
