"""A person's own picture file: read and written with the depth, mode, alpha, colour profile and resolution it has.

This is the one decoder. What it cannot keep it says (`Photo.notes`), or refuses.
"""

from dipsearch.photo.content import FLOATS, LARGEST, SMALLEST, Photo, blank
from dipsearch.photo.formats import EXTENSIONS, FORMATS, check_photo
from dipsearch.photo.reader import load_photo
from dipsearch.photo.writer import save_photo

__all__ = [
    "EXTENSIONS",
    "FLOATS",
    "FORMATS",
    "LARGEST",
    "SMALLEST",
    "Photo",
    "blank",
    "check_photo",
    "load_photo",
    "save_photo",
]
