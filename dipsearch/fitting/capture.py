"""A step as a CUDA graph: one launch for some thousand kernels."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dipsearch.error import UsageError

WARM_UP = 3  # calls that run as they are: libraries choose their kernels


class Captured:
    """Runs work a few times as it is, then captures it, and replays the capture from there on.

    Warm-up calls are calls like any other, so nothing has to be undone. What the work reads and writes must
    stay where it is, and whatever it does on the host happens no more once it is captured. Each instance has
    its stream, so that several small fits overlap on one GPU.

    Args:
        generators: the random generators that the work draws from, other than the default one.
        cuda: torch's interface to the device.
    """

    def __init__(self, generators: Sequence[torch.Generator], cuda: Any = torch.cuda) -> None:
        self._generators, self._cuda = generators, cuda
        self._stream = cuda.Stream()
        self._graph: Any = None
        self._calls = 0

    def __call__(self, once: Callable[[], None]) -> None:
        """`once`, which never asks the device for a result, on this instance's stream.

        The current stream waits for it. UsageError where it cannot be captured.
        """
        cudnn = torch.backends.cudnn
        kept = {"deterministic": cudnn.deterministic, "allow_tf32": cudnn.allow_tf32}
        self._stream.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(self._stream), cudnn.flags(enabled=True, benchmark=True, **kept):
            if self._calls < WARM_UP:
                once()
            else:
                if self._graph is None:
                    self._graph = self._capture(once)
                self._graph.replay()
        self._calls += 1
        self._cuda.current_stream().wait_stream(self._stream)

    def _capture(self, once: Callable[[], None]) -> Any:
        graph = self._cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        try:
            with self._cuda.graph(graph, stream=self._stream):
                once()
        except RuntimeError as error:
            if "captur" not in str(error):
                raise
            raise UsageError(
                "a step cannot be captured as a CUDA graph; an operator must not ask the device for values "
                f"(item(), boolean indexing) nor hold tensors elsewhere: {str(error).splitlines()[0]}"
            ) from None
        return graph
