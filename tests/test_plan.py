import contextlib
import itertools

import pytest
import torch
from fits import GENOME, fitting_of, picture, run

import dipsearch.fitting.plan as planning
from dipsearch.error import OutOfMemory, UsageError
from dipsearch.fitting import heap
from dipsearch.fitting.capture import WARM_UP, Captured
from dipsearch.fitting.plan import Plan, plan
from dipsearch.network.build import PRECISIONS, Cost

CPU = torch.device("cpu")
GIB = 2**30
LASTING = GIB // 2
# (precision, recompute) -> bytes
BYTES = {
    ("float32", False): 8 * GIB,
    ("float32", True): 4 * GIB,
    ("bfloat16", False): 3 * GIB,
    ("bfloat16", True): 2 * GIB,
}


@pytest.fixture
def machine(monkeypatch):
    """A machine with so much memory for a fit, and what a fit takes there."""

    def has(memory, factor=1.0, bfloat16=False, recompute_above=float("inf")):
        def cost(genome, height, width, channels=3, precision="float32", *, recompute=False):
            return Cost(1000, 1.0, int(factor * BYTES[precision, recompute]), LASTING)

        monkeypatch.setattr(planning, "memory_of", lambda device: memory / planning.USABLE)
        monkeypatch.setattr(planning, "cost", cost)
        monkeypatch.setattr(planning, "has_bfloat16", lambda device: bfloat16)
        monkeypatch.setattr(planning, "RECOMPUTE_ABOVE", recompute_above)
        monkeypatch.setattr(planning, "_measured", {})

    return has


def never(plan):
    raise AssertionError("nothing is to be measured here")


def planned(precision="auto", make=never, size=(123, 456), genome=GENOME, device=CPU):
    return plan(genome, size, 3, precision, device, make)


# Memory


@pytest.mark.parametrize(
    ("memory", "found"),
    [
        (9, ("float32", False)),
        (8, ("float32", False)),
        (7.9, ("float32", True)),
        (4, ("float32", True)),
        (3.9, ("bfloat16", False)),
        (3, ("bfloat16", False)),
        (2.9, ("bfloat16", True)),
        (2, ("bfloat16", True)),
    ],
)
def test_less_memory_means_recomputing_and_then_bfloat16(machine, memory, found):
    machine(memory * GIB + 2)
    assert planned() == Plan(*found, BYTES[found])


def test_too_little_memory_is_an_error_that_names_picture_network_and_memory(machine):
    machine(1.9 * GIB)
    with pytest.raises(OutOfMemory, match=r"hourglass.*456x123 .*2\.0 GiB in bfloat16, but of cpu 1\.9 GiB") as caught:
        planned()
    assert caught.value.reason == "out-of-memory"


def test_members_of_an_ensemble_take_turns_but_each_keeps_its_own(machine):
    beside = 2 * (LASTING + GIB)
    machine(9 * GIB + beside)
    together = lambda device: plan(GENOME, (123, 456), 3, "float32", device, never, GIB, 3)  # noqa: E731
    assert together(CPU) == Plan("float32", False, 9 * GIB + beside)
    assert planned("float32", device=torch.device("cuda")).memory == 8 * GIB
    machine(27 * GIB)
    assert not together(torch.device("cuda")).recompute  # there, graphs keep what steps take
    machine(27 * GIB - 1)
    assert together(torch.device("cuda")) == Plan("float32", True, 15 * GIB)
    machine(15 * GIB - 1)
    with pytest.raises(OutOfMemory, match=r"15\.0 GiB for 3 of it.* or fewer of it"):
        together(torch.device("cuda"))


@pytest.mark.parametrize(
    ("precision", "memory", "found"),
    [
        ("float32", 9, False),
        ("float32", 5, True),
        ("float32", 3.5, None),
        ("bfloat16", 9, False),
        ("bfloat16", 2.5, True),
        ("bfloat16", 1, None),
    ],
)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_precision_that_was_asked_for_is_kept(machine, precision, memory, found, bfloat16):
    machine(memory * GIB, bfloat16=bfloat16)
    if found is None:
        with pytest.raises(OutOfMemory, match=f"GiB in {precision}"):
            planned(precision)
    else:
        assert planned(precision) == Plan(precision, found, BYTES[precision, found])


def test_what_is_large_is_recomputed_even_where_it_fits(machine):
    machine(1000 * GIB, recompute_above=5 * GIB)
    assert planned("float32").recompute
    assert not planned("bfloat16").recompute
    assert not planned("float32", device=torch.device("cuda")).recompute  # there, memory is all that counts


def test_a_fit_that_no_memory_holds_never_starts(monkeypatch):
    monkeypatch.setattr(planning, "memory_of", lambda device: 1000.0)
    with pytest.raises(OutOfMemory, match="16x16"):
        run(iterations=1)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_fit_is_computed_as_planned(monkeypatch, precision, recompute):
    monkeypatch.setattr(planning, "RECOMPUTE_ABOVE", 0 if recompute else float("inf"))
    fitting = fitting_of(precision=precision)
    assert (fitting.plan.precision, fitting.plan.recompute) == (precision, recompute)
    assert fitting._step.precision == fitting.result().precision == precision
    flags = {module.recompute for module in fitting._step.net.modules() if hasattr(module, "recompute")}
    assert flags == {recompute}


def test_recomputing_does_not_change_a_fit(monkeypatch):
    plain = run(truth=picture(seed=5))
    monkeypatch.setattr(planning, "RECOMPUTE_ABOVE", 0)
    less = run(truth=picture(seed=5))
    assert torch.allclose(plain.x, less.x, atol=1e-3)
    assert plain.curve["loss"] == pytest.approx(less.curve["loss"], rel=1e-3)


# auto


@pytest.fixture
def clock(monkeypatch):
    """Steps that take a given time, by the clock that the measurement reads."""
    now = [0.0]
    monkeypatch.setattr(planning.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def steps(seconds, made=None):
        def make(plan):
            if made is not None:
                made.append(plan)
            taken = iter(seconds[plan.precision]) if isinstance(seconds[plan.precision], list) else None

            def step():
                now[0] += next(taken) if taken else seconds[plan.precision]

            return step

        return make

    return steps


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"float32": 1.0, "bfloat16": 0.5}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 0.94}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 0.96}, "float32"),
        ({"float32": 1.0, "bfloat16": 2.0}, "float32"),
        ({"float32": 1.0, "bfloat16": [50.0, 0.5, 9.0]}, "bfloat16"),  # the first warms up, the best counts
        ({"float32": [0.1, 9.0, 1.0], "bfloat16": 0.9}, "bfloat16"),
    ],
)
def test_auto_takes_what_was_faster(machine, clock, seconds, chosen):
    machine(100 * GIB, bfloat16=True)
    assert planned(make=clock(seconds)).precision == chosen


def test_auto_measures_the_very_plans_it_chooses_from(machine, clock):
    machine(5 * GIB, bfloat16=True)
    made = []
    found = planned(make=clock({"float32": 1.0, "bfloat16": 0.5}, made))
    single = Plan("float32", True, BYTES["float32", True])
    half = Plan("bfloat16", False, BYTES["bfloat16", False])
    assert made == [single, half] and found == half


def test_auto_measures_once_for_fits_of_a_kind(machine, clock):
    machine(100 * GIB, bfloat16=True)
    made = []
    for _ in range(3):
        assert planned(make=clock({"float32": 1.0, "bfloat16": 0.5}, made)).precision == "bfloat16"
    assert len(made) == 2
    other = clock({"float32": 1.0, "bfloat16": 2.0}, made)
    assert planned(make=other).precision == "bfloat16"
    assert planned(make=other, size=(64, 64)).precision == "float32"
    assert len(made) == 4


def test_auto_is_float32_where_nothing_multiplies_in_bfloat16(machine):
    machine(100 * GIB, bfloat16=False)
    assert planned(make=never).precision == "float32"


@pytest.mark.parametrize(("precision", "memory"), list(itertools.product(PRECISIONS, [100, 2.5])))
def test_nothing_is_measured_where_there_is_no_choice(machine, precision, memory):
    machine(memory * GIB, bfloat16=True)
    if (precision, memory) == ("float32", 2.5):
        precision = "auto"  # float32 does not fit
    assert planned(precision, make=never).precision == ("float32" if precision == "float32" else "bfloat16")


@pytest.mark.parametrize("faster", PRECISIONS)
def test_a_measured_fit_is_bit_for_bit_the_one_of_that_precision(monkeypatch, faster):
    monkeypatch.setattr(planning, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(planning, "FASTER", float("inf") if faster == "bfloat16" else 0.0)
    monkeypatch.setattr(planning, "_measured", {})
    measured, asked = run(precision="auto"), run(precision=faster)
    assert measured.precision == faster
    assert torch.equal(measured.x, asked.x) and measured.curve["loss"] == asked.curve["loss"]


def test_an_unknown_precision_is_refused_with_the_choices():
    with pytest.raises(UsageError, match=r"unknown precision 'half'.*auto, bfloat16, float32"):
        run(precision="half")


@pytest.mark.parametrize(
    ("flags", "has"), [("flags: fpu avx2", False), ("flags: avx512_bf16", True), ("flags: amx_bf16 x", True)]
)
def test_a_processor_says_whether_it_multiplies_in_bfloat16(monkeypatch, tmp_path, flags, has):
    file = tmp_path / "cpuinfo"
    file.write_text(flags)
    monkeypatch.setattr(planning, "Path", lambda path: file)
    assert planning.has_bfloat16(CPU) is has
    file.unlink()
    assert planning.has_bfloat16(CPU) is False
    assert planning.has_bfloat16(torch.device("mps")) is False


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_emulated_where_a_processor_lacks_it(monkeypatch, native):
    monkeypatch.setattr(planning, "has_bfloat16", lambda device: native)
    assert planning.emulates_bfloat16("cpu") == (not native)


# The heap


class Recorded:
    """A C library that notes what it is told."""

    def __init__(self):
        self.calls = []

    def mallopt(self, option, value):
        self.calls.append((option, value))
        return 1

    def malloc_trim(self, pad):
        self.calls.append("trim")
        return 1


@pytest.mark.parametrize("call", [heap.keep, heap.default, heap.give_back, lambda: heap.prepare(True)])
@pytest.mark.parametrize("platform", ["", "darwin", "win32"])
def test_the_heap_can_be_told_anywhere(call, platform, monkeypatch):
    heap._libc.cache_clear()
    if platform:
        monkeypatch.setattr(heap.sys, "platform", platform)
        assert heap._libc() is None
    call()
    heap._libc.cache_clear()
    monkeypatch.undo()
    heap.default()


def test_a_kept_heap_is_neither_mapped_nor_trimmed_and_another_is_as_glibc_adapts_it(monkeypatch):
    libc = Recorded()
    monkeypatch.setattr(heap, "_libc", lambda: libc)
    heap.prepare(True)
    assert libc.calls[0] == "trim"
    assert (heap.M_MMAP_MAX, 0) in libc.calls and (heap.M_TRIM_THRESHOLD, -1) in libc.calls
    libc.calls.clear()
    heap.prepare(False)
    assert libc.calls == ["trim", *heap.DEFAULTS]
    assert dict(heap.DEFAULTS)[heap.M_MMAP_MAX] > 0


def test_a_small_fit_keeps_its_heap_and_a_large_or_recomputing_one_does_not(machine, monkeypatch):
    machine(100 * GIB)
    alive = planned("float32").memory  # nothing here is below the threshold
    assert not planned("float32").keep
    monkeypatch.setattr(heap, "WORTH_KEEPING", alive)
    assert planned("float32").keep and planned("float32").memory == int(heap.HOLES * alive)
    monkeypatch.setattr(planning, "RECOMPUTE_ABOVE", 0)
    assert planned("float32").recompute and not planned("float32").keep


@pytest.mark.parametrize(("given", "keep"), [("100", True), ("0", False)])
def test_the_environment_says_how_much_a_fit_may_keep(machine, monkeypatch, given, keep):
    machine(100 * GIB)
    monkeypatch.setattr(planning, "RECOMPUTE_ABOVE", 0)
    monkeypatch.setenv(planning.KEEP, given)
    assert planned("float32").keep is keep and planned("float32").recompute is not keep


@pytest.mark.parametrize("given", ["much", "-1", "nan", ""])
def test_an_environment_that_says_nonsense_is_an_error(machine, monkeypatch, given):
    machine(100 * GIB)
    monkeypatch.setenv(planning.KEEP, given)
    with pytest.raises(UsageError, match="a number of GiB"):
        planned("float32")


# Captured steps


class Device:
    """The part of `torch.cuda` that captures a graph; it notes what is asked of it."""

    def __init__(self):
        self.events, self.now, self.capturing = [], "default", False

    def Stream(self):
        return Queue(self, "own")

    def current_stream(self):
        return Queue(self, self.now)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream.name
        yield
        self.now = before

    def CUDAGraph(self):
        return Graph(self)

    @contextlib.contextmanager
    def graph(self, graph, stream):
        self.events.append(("capture begins", stream.name))
        self.capturing = True
        yield
        self.capturing = False
        self.events.append(("capture ends", stream.name))


class Queue:
    def __init__(self, device, name):
        self.device, self.name = device, name

    def wait_stream(self, other):
        self.device.events.append((self.name, "waits for", other.name))


class Graph:
    def __init__(self, device):
        self.device = device

    def register_generator_state(self, generator):
        self.device.events.append(("registered", generator))

    def replay(self):
        self.device.events.append(("replayed", self.device.now))


def captured(calls, generators=()):
    device = Device()
    work = Captured(generators, cuda=device)
    for _ in range(calls):
        work(lambda: device.events.append(("captured" if device.capturing else "ran", device.now)))
    return device.events


def test_the_first_calls_run_then_one_is_captured_and_then_replayed():
    events = [event for event in captured(WARM_UP + 3) if event[1] != "waits for"]
    capture = [("capture begins", "own"), ("captured", "own"), ("capture ends", "own")]
    assert events == [("ran", "own")] * WARM_UP + capture + [("replayed", "own")] * 3


def test_each_call_does_the_work_once():
    for calls in range(1, WARM_UP + 4):
        events = captured(calls)
        assert sum(event[0] in ("ran", "replayed") for event in events) == calls


def test_every_call_waits_for_the_current_stream_and_the_current_stream_for_it():
    events = captured(WARM_UP + 2)
    ordered = [event for event in events if event[0] in ("ran", "replayed") or "waits for" in event]
    before, after = ("own", "waits for", "default"), ("default", "waits for", "own")
    assert ordered[::3] == [before] * (WARM_UP + 2)
    assert ordered[2::3] == [after] * (WARM_UP + 2)
    assert all(event[0] in ("ran", "replayed") for event in ordered[1::3])


def test_generators_are_registered_before_the_capture_begins():
    generators = [torch.Generator(), torch.Generator()]
    events = captured(WARM_UP + 2, generators)
    at = [index for index, event in enumerate(events) if event[0] == "registered"]
    assert [events[index][1] for index in at] == generators
    assert max(at) < events.index(("capture begins", "own"))
