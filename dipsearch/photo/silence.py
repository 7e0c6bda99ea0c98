"""What decoders and encoders say: nothing while they work, and one line where they fail."""

import logging
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def no_warnings() -> Iterator[None]:
    """No warnings and logs of decoders: what matters becomes an error or a note."""
    with ExitStack() as after:
        after.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in ("tifffile", "PIL"):
            logger = logging.getLogger(name)
            after.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)
        yield


@contextmanager
def no_stderr() -> Iterator[None]:
    """Standard error, as C knows it, leads nowhere: libtiff writes there whatever it stumbles over."""
    with ExitStack() as after:
        kept = os.dup(2)
        after.callback(os.close, kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        after.callback(os.close, nowhere)
        sys.stderr.flush()
        os.dup2(nowhere, 2)
        after.callback(os.dup2, kept, 2)
        yield


def reason(error: Exception) -> str:
    """An error in one line, without the file objects and tags that decoders put into theirs."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, TypeError | AttributeError | LookupError | ArithmeticError | AssertionError | struct.error):
        return "broken file"  # these words are about the decoder, not about the file
    lines = str(error).split(" '")[0].split(" <")[0].splitlines()
    return lines[0][:200] if lines and lines[0].strip() else type(error).__name__
