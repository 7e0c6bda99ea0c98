"""A step as a CUDA graph: one launch for some thousand kernels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UP = 3  # calls that run as they are: libraries choose their kernels, the optimiser makes its state


class Captured:
    """Calls `once` a few times as it is, then captures it, and replays the capture from there on.

    Warm-up calls are calls like any other, so nothing has to be undone. What `once` reads and writes must
    stay where it is. Each instance has its stream, so that several small fits overlap on one GPU.

    Args:
        once: work on the current CUDA device that never asks for a result.
        generators: the random generators that it draws from, other than the default one.
        cuda: torch's interface to the device.
    """

    def __init__(self, once: Callable[[], None], generators: Sequence[torch.Generator], cuda: Any = torch.cuda) -> None:
        self._once, self._generators, self._cuda = once, generators, cuda
        self._stream = cuda.Stream()
        self._graph: Any = None
        self._calls = 0

    def __call__(self) -> None:
        """One call's work, enqueued on this instance's stream; the current stream waits for it."""
        self._stream.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(self._stream), torch.backends.cudnn.flags(enabled=True, benchmark=True):
            if self._calls < WARM_UP:
                self._once()
            else:
                if self._graph is None:
                    self._graph = self._capture()
                self._graph.replay()
        self._calls += 1
        self._cuda.current_stream().wait_stream(self._stream)

    def _capture(self) -> Any:
        graph = self._cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with self._cuda.graph(graph, stream=self._stream):
            self._once()
        return graph
