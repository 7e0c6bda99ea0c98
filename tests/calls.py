"""What workers are asked to do in tests: functions that any process can import."""

import gc
import os
import signal
import struct
import time
from multiprocessing.connection import Connection
from pathlib import Path

from dipsearch.error import Diverged


def begun(folder):
    """Note a beginning, and give the number of those before it."""
    before = len(list(Path(folder).iterdir()))
    (Path(folder) / f"{before}-{os.getpid()}").touch()
    return before


def square(number, folder=None):
    if folder is not None:
        begun(folder)
    return number * number


def diverges():
    raise Diverged("as it should", rollbacks=3)


def kills(folder, times):
    """End the worker without grace so many times, and give its number then."""
    if begun(folder) < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def tears(folder, times):
    """End the worker without grace in the midst of its answer so many times, and give its number then."""
    if begun(folder) < times:
        (driver,) = [each for each in gc.get_objects() if isinstance(each, Connection)]
        os.write(driver.fileno(), struct.pack("!i", 1000) + b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def refuses():
    raise OSError("not there")


def holds(folder, number, seconds):
    """Take some time."""
    begun(folder)
    time.sleep(seconds)
    return number


def beside(folder, number, seconds):
    """Take some time, and give how many calls were under way in it, at most."""
    mark = Path(folder) / f"{number}.now"
    mark.touch()
    most = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        most = max(most, len(list(Path(folder).glob("*.now"))))
        time.sleep(0.01)
    mark.unlink()
    return most
