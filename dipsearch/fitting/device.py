"""Where a fit runs, and how much memory there is."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import torch

from dipsearch.error import UsageError, unknown

DEVICES: dict[str, Callable[[], bool]] = {
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
    "cpu": lambda: True,
}


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first of cuda, mps and cpu that this machine has."""
    if name == "auto":
        return torch.device(next(device for device, available in DEVICES.items() if available()))
    if name not in DEVICES:
        raise UsageError(unknown("device", name, ["auto", *DEVICES]))
    if not DEVICES[name]():
        raise UsageError(f"device {name!r} is not available on this machine; choose auto")
    return torch.device(name)


CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_of(device: torch.device) -> float:
    """Bytes that a fit may take on a device; infinity where that cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info()[1])
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        limits.append(float(CGROUP_LIMIT.read_text(encoding="utf-8")))
    return min(limits, default=float("inf"))
