"""Files that appear whole or not at all."""

import os
import secrets
import zlib
from collections.abc import Callable
from pathlib import Path

from dipsearch.error import DipsearchError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, flush it to the disk and give it its name.

    DipsearchError names the file where that fails, or is a device or a pipe; nothing half-written is left.
    """
    temporary: Path | None = None
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise DipsearchError(f"{path}: cannot be written: not a regular file")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{_begun(path)}{secrets.token_hex(4)}.part")
        temporary.touch(exist_ok=False)  # with the permissions that the user's new files have
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save says of a full disk the latter
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DipsearchError(f"{path}: cannot be written: {said.splitlines()[0]}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def leftovers(path: Path) -> list[Path]:
    """What processes that were killed have left of a file that they were writing."""
    return sorted(path.parent.glob(f"{_begun(path)}*.part"))


def _begun(path: Path) -> str:
    """How the names of a file's temporary ones begin; as short for a long name."""
    return f".{zlib.crc32(os.fsencode(path.name)):08x}-"
