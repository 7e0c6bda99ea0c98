"""One thread for each test process: tiny networks gain nothing from more, and lose a lot on a busy machine, and the
last bits of a fit depend on their number, which is one in workers, too."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a job in the background inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from fits import TINY
from PIL import Image
from studies import write, write_space, write_task


@pytest.fixture
def room(tmp_path):
    """A folder with pictures, a small task and a small space."""
    for number in range(8):
        coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / f"{number}.png")
    write(tmp_path / "published.yaml", TINY | {"activation": "swish", "channels_down": 6, "channels_up": 6})
    write_task(tmp_path)
    write_space(tmp_path)
    return tmp_path
