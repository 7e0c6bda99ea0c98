"""How a fit is computed: in which precision, and whether cheap steps are done twice to save memory."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dipsearch.error import OutOfMemory, UsageError
from dipsearch.fitting import heap
from dipsearch.fitting.capture import WARM_UP
from dipsearch.fitting.device import memory_of, pick_device
from dipsearch.fitting.recipe import AUTO, Recipe
from dipsearch.fitting.stopping import MOST_VALUES
from dipsearch.genome import Genome
from dipsearch.network.build import Cost, cost

# Bytes of a fit on the CPU. Above, the allocator cannot keep what a step frees (`heap`), and clearing fresh memory
# costs more than making maps again; it leaves the machine usable, too.
RECOMPUTE_ABOVE = 2**30
KEEP = "DIPSEARCH_KEEP"  # of the environment: so many GiB instead, and freed memory stays up to there
USABLE = 0.9  # of the device's memory, so that a prediction may be some percent short
FASTER = 0.95  # of the seconds in float32: what bfloat16 has to take to be chosen
STEPS = 2  # timed, after one to warm up; on CUDA, after the graph was captured
CAPTURED = WARM_UP + 2
PRECISION_FLAGS = ("amx_bf16", "avx512_bf16")  # of a processor that multiplies in bfloat16

_measured: dict[tuple[Any, ...], str] = {}


@dataclass(frozen=True)
class Plan:
    """Precision, recomputation, the bytes that the fit is predicted to take, and whether memory stays."""

    precision: str
    recompute: bool
    memory: int
    keep: bool = False  # what a step frees, for the next one (`heap`)


def plan(
    genome: Genome,
    size: tuple[int, int],
    image_channels: int,
    precision: str,
    device: torch.device,
    make: Callable[[Plan], Callable[[], None]],
    kept_bytes: int = 0,
    members: int = 1,
) -> Plan:
    """Choose how to compute a fit.

    Float32 and everything kept, where that is small; outputs of convolutions only, where it is not or does not
    fit; then bfloat16, if the precision is `auto`. With `auto`, bfloat16 also where the machine multiplies in
    it and a few steps of this very fit are faster. `make` gives the step of a plan, for that measurement;
    `kept_bytes` are those of `bytes_of`, and `members` the fits that are under way together, as in an ensemble.

    Raises:
        OutOfMemory: the device's memory holds none of these.
    """
    limit = USABLE * memory_of(device)

    def smallest(name: str) -> Plan | None:
        kept = cost(genome, *size, image_channels, name)
        keepable, worth_keeping = _most_kept()
        whole = bytes_together(kept, kept_bytes, members, device)
        if whole <= limit and (device.type == "cuda" or kept.memory <= keepable):
            if device.type == "cpu" and whole <= worth_keeping and heap.HOLES * whole <= limit:
                return Plan(name, False, int(heap.HOLES * whole), keep=True)
            return Plan(name, False, whole)
        less = cost(genome, *size, image_channels, name, recompute=True)
        whole = bytes_together(less, kept_bytes, members, device)
        return Plan(name, True, whole) if whole <= limit else None

    if precision != AUTO:
        found = smallest(precision)
    elif (single := smallest("float32")) is None:
        found = smallest("bfloat16")
    else:
        found = single
        magnitude = round(cost(genome, *size, image_channels).gflop).bit_length()
        kind = (device.type, torch.get_num_threads(), size, genome.family, magnitude)  # shares one measurement
        if has_bfloat16(device) and _measured.get(kind) != "float32":
            half = smallest("bfloat16")
            if half is not None and _faster(kind, single, half, make) == "bfloat16":
                found = half
    if found is None:
        name = precision if precision != AUTO else "bfloat16"
        one = cost(genome, *size, image_channels, name, recompute=True)
        least, gib = one.memory, 2**30
        beside = f" and its stopping rule and averages {kept_bytes / gib:.1f} GiB" if kept_bytes > least / 10 else ""
        remedy = "take a shorter window of the rule" if kept_bytes > least else "take a narrower network"
        if members > 1:
            whole = bytes_together(one, kept_bytes, members, device)
            beside, remedy = f"{beside} ({whole / gib:.1f} GiB for {members} of it)", f"{remedy}, or fewer of it"
        raise OutOfMemory(
            f"{genome.summary()} at {size[1]}x{size[0]} needs about {least / gib:.1f} GiB in {name}{beside}, "
            f"but of {device.type} {limit / gib:.1f} GiB can be used; shrink the picture, or {remedy}"
        )
    return found


def bytes_together(price: Cost, kept_bytes: int, members: int, device: torch.device) -> int:
    """Of fits that are under way together, each with `kept_bytes` of its own: they take turns, but on CUDA the graph of
    each keeps the memory of its steps."""
    one = price.memory + kept_bytes
    another = one if device.type == "cuda" else price.lasting + kept_bytes
    return one + (members - 1) * another


def _most_kept() -> tuple[float, float]:
    """Bytes of a fit above which maps are made again, and above which freed memory goes back; UsageError where the
    environment says nonsense."""
    if (given := os.environ.get(KEEP)) is None:
        return RECOMPUTE_ABOVE, heap.WORTH_KEEPING
    try:
        most = float(given) * 2**30
    except ValueError:
        most = -1.0
    if not most >= 0:
        raise UsageError(f"{KEEP}={given}: a number of GiB")
    return most, most


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(flag in flags for flag in PRECISION_FLAGS)


def emulates_bfloat16(device: str) -> bool:
    """Whether fits run on this machine's processor and, as far as is known, it has no instructions for bfloat16;
    UsageError where there is no such device."""
    where = pick_device(device)
    return where.type == "cpu" and not has_bfloat16(where)


def _faster(kind: tuple[Any, ...], single: Plan, half: Plan, make: Callable[[Plan], Callable[[], None]]) -> str:
    """The faster of two plans by a few steps of each; measured once for fits of a kind."""
    if kind not in _measured:
        on_cuda = kind[0] == "cuda"
        best = {name: _seconds(make(each), on_cuda) for name, each in (("float32", single), ("bfloat16", half))}
        _measured[kind] = "bfloat16" if best["bfloat16"] < FASTER * best["float32"] else "float32"
    return _measured[kind]


def _seconds(step: Callable[[], None], on_cuda: bool) -> float:
    """Of one step, once it runs as it will in a fit."""
    taken = []
    warm_up = CAPTURED if on_cuda else 1
    for _ in range(warm_up + STEPS):
        started = time.perf_counter()
        step()
        if on_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return min(taken[warm_up:])


def bytes_of(recipe: Recipe, values: int) -> int:
    """What the stopping rule and the averages of a picture with so many values take, with two snapshots."""
    window = recipe.window * min(values, MOST_VALUES) if recipe.stop == "es-wmv" else 0
    posterior = 2 * values if recipe.weight_noise else 0
    return 3 * 4 * (window + posterior)
