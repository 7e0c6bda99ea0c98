"""The pictures of a report: small ones as data, each once, within a budget."""

import base64
import io
from pathlib import Path

from PIL import Image

from dipsearch.photo.pillow import open_picture
from dipsearch.run import hashed

LOSSLESS = 96 * 96  # pixels; larger ones are compressed, to what the eye does not see
QUALITY = 92


class Album:
    """Pictures by an id, as `data:` addresses; `add` refuses what the budget, in bytes, does not hold."""

    def __init__(self, budget: int) -> None:
        self.pictures: dict[str, str] = {}
        self.refused, self._left = 0, budget

    def add(self, path: Path) -> str | None:
        """The id of a picture's file; None where it is missing, unreadable, or too much."""
        key = "p" + hashed(str(path))
        if key in self.pictures:
            return key
        try:
            with open_picture(path) as opened:
                picture = opened.convert("RGB" if opened.mode != "L" else "L")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # as Pillow has it for broken ones
            return None
        sink = io.BytesIO()
        picture.save(sink, "WEBP", lossless=picture.width * picture.height <= LOSSLESS, quality=QUALITY)
        data = "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode()
        if len(data) > self._left:
            self.refused += 1
            return None
        self._left -= len(data)
        self.pictures[key] = data
        return key
