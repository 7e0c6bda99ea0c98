"""One thread for each test process: tiny networks gain nothing from more, and lose a lot on a busy machine."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
