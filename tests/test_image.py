"""Pictures are read with their full range, or refused with one line that names the file."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from dipsearch.error import UsageError
from dipsearch.image import EXTENSIONS, SMALLEST, digest, expand, locate, normal, read, read_mask, thumbnail, to_uint8

WIDTH, HEIGHT = 24, 20
GREY = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 256).astype(np.uint8)
COLOUR = np.stack([GREY, 255 - GREY, GREY[::-1]], axis=2)
ALPHA = np.full((HEIGHT, WIDTH), 100, dtype=np.uint8)
DEEP = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * 136).astype(np.uint16)  # 0…65144
LOSSLESS = (".png", ".tif", ".tiff", ".bmp")


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG made by hand, as Pillow writes no 16-bit colour; `colour` 2 is RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DEEP_COLOUR = np.stack([DEEP, 65535 - DEEP, DEEP[::-1]], axis=2)
DEEP_ALPHA = np.full((HEIGHT, WIDTH), 1000, dtype=np.uint16)


def deep_png(colour: int) -> bytes:
    """A 16-bit picture of WIDTH x HEIGHT in a PNG colour type."""
    layers = {0: [DEEP], 2: [DEEP_COLOUR], 4: [DEEP, DEEP_ALPHA], 6: [DEEP_COLOUR, DEEP_ALPHA]}[colour]
    rows = np.dstack(layers).astype(">u2").reshape(HEIGHT, -1)
    return png(WIDTH, HEIGHT, 16, colour, b"".join(b"\0" + row.tobytes() for row in rows))


def saved(picture: Image.Image, path: Path, **options: object) -> str:
    picture.save(path, **options)
    return str(path)


def colours(x: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) to (H, W, 3) bytes; fails where x is not exactly 8-bit."""
    array = x[0].movedim(0, 2).numpy() * 255
    np.testing.assert_allclose(array, array.round(), atol=1e-4)
    return array.round().astype(np.uint8)


# what can be read


@pytest.mark.parametrize("extension", LOSSLESS)
def test_colour(tmp_path: Path, extension: str) -> None:
    x = read(saved(Image.fromarray(COLOUR), tmp_path / f"a{extension}"))
    assert x.shape == (1, 3, HEIGHT, WIDTH)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    np.testing.assert_array_equal(colours(x), COLOUR)
    assert float(x.min()) == 0
    assert float(x.max()) == 1


@pytest.mark.parametrize("extension", LOSSLESS)
def test_grey(tmp_path: Path, extension: str) -> None:
    path = saved(Image.fromarray(GREY), tmp_path / f"a{extension}")
    np.testing.assert_array_equal(colours(read(path)), np.repeat(GREY[:, :, None], 3, axis=2))
    x = read(path, grey=True)
    assert x.shape == (1, 1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(to_uint8(x), GREY)


def test_transparency_is_dropped(tmp_path: Path) -> None:
    rgba = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    np.testing.assert_array_equal(colours(read(saved(rgba, tmp_path / "rgba.png"))), COLOUR)
    la = Image.fromarray(np.dstack([GREY, ALPHA]))
    assert la.mode == "LA"
    path = saved(la, tmp_path / "la.png")
    np.testing.assert_array_equal(colours(read(path)), np.repeat(GREY[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(to_uint8(read(path, grey=True)), GREY)


def test_palette(tmp_path: Path) -> None:
    indexed = Image.fromarray(GREY % 3)
    indexed.putpalette([255, 0, 0, 0, 128, 0, 10, 20, 30])
    assert indexed.mode == "P"
    x = read(saved(indexed, tmp_path / "p.png"))
    table = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30]], dtype=np.uint8)
    np.testing.assert_array_equal(colours(x), table[GREY % 3])


def test_one_bit(tmp_path: Path) -> None:
    path = saved(Image.fromarray(GREY > 100), tmp_path / "b.png")
    with Image.open(path) as picture:
        assert picture.mode == "1"
    assert torch.equal(read(path, grey=True)[0, 0], torch.from_numpy((GREY > 100).astype(np.float32)))
    assert read(path).shape == (1, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("extension", [".jpg", ".jpeg", ".webp"])
def test_lossy_colour_is_near(tmp_path: Path, extension: str) -> None:
    flat = Image.new("RGB", (WIDTH, HEIGHT), (200, 100, 50))
    x = read(saved(flat, tmp_path / f"a{extension}", quality=100))
    expected = torch.tensor([200.0, 100.0, 50.0])[:, None, None].expand(3, HEIGHT, WIDTH) / 255
    torch.testing.assert_close(x[0], expected, atol=3 / 255, rtol=0)


def test_grey_jpeg(tmp_path: Path) -> None:
    x = read(saved(Image.new("L", (WIDTH, HEIGHT), 80), tmp_path / "a.jpg", quality=100))
    torch.testing.assert_close(x, torch.full((1, 3, HEIGHT, WIDTH), 80 / 255), atol=1 / 255, rtol=0)


def test_every_extension_is_tried_here() -> None:
    assert set(EXTENSIONS) == {*LOSSLESS, ".jpg", ".jpeg", ".webp"}


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bit_grey_keeps_its_depth(tmp_path: Path, name: str) -> None:
    path = saved(Image.fromarray(DEEP), tmp_path / name)
    expected = torch.from_numpy(DEEP.astype(np.float32) / 65535)
    torch.testing.assert_close(read(path, grey=True)[0, 0], expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(read(path), expected.expand(1, 3, HEIGHT, WIDTH), atol=1e-7, rtol=0)


def test_16_bit_grey_png_made_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(0))
    x = read(str(tmp_path / "a.png"), grey=True)[0, 0]
    torch.testing.assert_close(x, torch.from_numpy(DEEP.astype(np.float32) / 65535), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["a.png", "A.PNG", "picture", "a.jpg"])
@pytest.mark.parametrize("colour", [2, 6])
def test_16_bit_colour_png_keeps_its_depth(tmp_path: Path, colour: int, name: str) -> None:
    (tmp_path / name).write_bytes(deep_png(colour))
    x = read(str(tmp_path / name))
    np.testing.assert_array_equal((x[0].movedim(0, 2).double().numpy() * 65535).round(), DEEP_COLOUR)


def test_16_bit_grey_png_with_alpha_keeps_its_depth(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(4))
    x = read(str(tmp_path / "a.png"), grey=True)
    np.testing.assert_array_equal((x[0, 0].double().numpy() * 65535).round(), DEEP)


def test_16_bit_colour_tiff_keeps_its_depth(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP_COLOUR, photometric="rgb")
    x = read(str(tmp_path / "a.tif"))
    np.testing.assert_array_equal((x[0].movedim(0, 2).double().numpy() * 65535).round(), DEEP_COLOUR)


def test_grey_weights(tmp_path: Path) -> None:
    blocks = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for channel in range(3):
        blocks[:, 8 * channel : 8 * (channel + 1), channel] = 255
    x = read(saved(Image.fromarray(blocks), tmp_path / "rgb.png"), grey=True)
    assert x.shape == (1, 1, HEIGHT, WIDTH)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        assert x[..., 8 * channel : 8 * (channel + 1)].flatten().tolist() == pytest.approx([weight] * 8 * HEIGHT)


def test_grey_of_colour_is_pillows_to_a_bit() -> None:
    with Image.open(locate("skimage:astronaut")) as picture:
        pillow = np.asarray(picture.convert("L"), dtype=np.float32)
    x = read("skimage:astronaut", grey=True)[0, 0].numpy() * 255
    assert float(np.abs(x - pillow).max()) <= 1


def test_a_picture_of_the_smallest_size_is_read(tmp_path: Path) -> None:
    assert read(saved(Image.new("L", (SMALLEST, SMALLEST)), tmp_path / "a.png")).shape == (1, 3, SMALLEST, SMALLEST)


def test_a_rotated_photograph_is_upright(tmp_path: Path) -> None:
    """Cameras store the pixels as they lay on the sensor, and the way to turn them (6: clockwise by 90°) in EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6
    x = read(saved(Image.fromarray(COLOUR), tmp_path / "a.png", exif=exif))
    assert x.shape == (1, 3, WIDTH, HEIGHT)
    np.testing.assert_array_equal(colours(x), np.rot90(COLOUR, -1))


def test_pictures_of_scikit_image() -> None:
    x = read("skimage:astronaut")
    assert x.shape == (1, 3, 512, 512)
    with Image.open(locate("skimage:astronaut")) as picture:
        np.testing.assert_array_equal(colours(x), np.asarray(picture))


def test_a_mask_is_known_where_the_file_is_black(tmp_path: Path) -> None:
    white = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    white[:5] = 255
    known = read_mask(saved(Image.fromarray(white), tmp_path / "m.png"))
    assert known.shape == (1, 1, HEIGHT, WIDTH)
    assert not known[..., :5, :].any()
    assert known[..., 5:, :].all()


# what is refused


def encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


RANDOM = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "cmyk": ("a.jpg", lambda: encoded(Image.new("CMYK", (WIDTH, HEIGHT)), "JPEG"), "CMYK"),
    "float": ("a.tif", lambda: encoded(Image.fromarray(np.zeros((20, 24), np.float32)), "TIFF"), "floating-point"),
    "32-bit": ("a.tif", lambda: encoded(Image.fromarray(DEEP.astype(np.int32) * 100), "TIFF"), ""),
    "empty": ("a.png", lambda: b"", "not a readable picture"),
    "text": ("a.png", lambda: b"this is no picture\n" * 20, "not a readable picture"),
    "truncated": ("a.png", lambda: encoded(Image.fromarray(RANDOM), "PNG")[:4000], "truncated"),
    "truncated-16-bit": ("a.png", lambda: deep_png(0)[:200], "not a readable picture"),
    "header-only": ("a.png", lambda: encoded(Image.fromarray(RANDOM), "PNG")[:33], "not a readable picture"),
    "truncated-16-bit-rgb": ("a.png", lambda: deep_png(2)[:500], "not a readable picture"),
    "truncated-jpeg": ("a.jpg", lambda: encoded(Image.fromarray(RANDOM), "JPEG")[:1500], "truncated"),
    "low": ("a.png", lambda: encoded(Image.new("L", (64, SMALLEST - 1)), "PNG"), "64x15 is too small"),
    "narrow": ("a.png", lambda: encoded(Image.new("L", (SMALLEST - 1, 64)), "PNG"), "15x64 is too small"),
    "26-megapixels": ("a.png", lambda: png(5100, 5100, 8, 0, b""), "5100x5100"),
    "100-megapixels": ("a.png", lambda: png(10000, 10000, 8, 0, b""), ""),
    "400-megapixels": ("a.png", lambda: png(20000, 20000, 8, 0, b""), ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    name, content, words = REFUSED[case]
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(UsageError) as error:
        read(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert words in message.removeprefix(str(path))
    assert "\n" not in message


def test_no_program_is_started_to_read_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was to be started"))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(RANDOM), "EPS"))
    with pytest.raises(UsageError, match="not a readable picture"):
        read(str(path))


@pytest.mark.parametrize("name", ["nowhere.png", "folder", "nowhere/a.png"])
def test_no_such_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError) as error:
        read(str(tmp_path / name))
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_no_truncated_file_is_read(tmp_path: Path, kind: str) -> None:
    whole = encoded(Image.fromarray(RANDOM), kind)
    path = tmp_path / "a.img"
    for length in (0, 1, 8, 20, 30, 50, 100, 300, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="not a readable picture"):
            read(str(path))


@pytest.mark.parametrize("name", ["skimage:astronaut.png", "skimage:nobody", "skimage:", "skimage:../__init__"])
def test_an_unknown_picture_of_scikit_image_is_an_error(name: str) -> None:
    with pytest.raises(UsageError) as error:
        read(name)
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    assert "choose from: astronaut, " in message
    assert "\n" not in message


# folders


def test_a_folder_is_its_pictures_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.tiff", "notes.txt", "d"):
        (tmp_path / name).touch()
    assert expand([str(tmp_path)]) == [str(tmp_path / name) for name in ("a.JPG", "b.png", "c.tiff")]


def test_files_are_kept_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").touch()
    paths = [str(tmp_path / "z.dat"), "skimage:coffee", str(tmp_path / "in"), str(tmp_path / "a.png")]
    assert expand(paths) == [paths[0], paths[1], str(tmp_path / "in" / "x.png"), paths[3]]
    assert expand([]) == []


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError) as error:
        expand([str(tmp_path)])
    assert str(error.value).startswith(f"{tmp_path}: ")
    assert all(extension in str(error.value) for extension in EXTENSIONS)
    assert "\n" not in str(error.value)


# out of memory's form


def test_to_uint8_rounds_and_clips() -> None:
    x = torch.tensor([0, 0.4, 0.6, 127.4, 127.6, 254.4, 254.6, 255, 300, -20])[None, None, None] / 255
    assert to_uint8(x).tolist() == [[0, 0, 1, 127, 128, 254, 255, 255, 255, 0]]


def test_to_uint8_gives_back_every_byte() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(to_uint8(torch.from_numpy(values.astype(np.float32) / 255)[None, None]), values)


def test_to_uint8_shapes() -> None:
    assert to_uint8(torch.zeros(1, 1, 4, 6)).shape == (4, 6)
    assert to_uint8(torch.zeros(1, 3, 4, 6, requires_grad=True)).shape == (4, 6, 3)
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1
    assert to_uint8(red)[0, 0].tolist() == [255, 0, 0]
    assert to_uint8(red).dtype == np.uint8


@pytest.mark.parametrize(
    ("height", "width", "size"), [(300, 600, (64, 32)), (600, 300, (32, 64)), (20, 24, (24, 20)), (64, 64, (64, 64))]
)
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_thumbnail(tmp_path: Path, height: int, width: int, size: tuple[int, int], channels: int, mode: str) -> None:
    path = tmp_path / "small.png"
    thumbnail(torch.full((1, channels, height, width), 0.2), path, side=64)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == size
        assert picture.mode == mode
        assert set(picture.convert("L").tobytes()) == {51}


def test_a_thumbnail_is_written_as_png_under_any_name(tmp_path: Path) -> None:
    thumbnail(torch.zeros(1, 3, 20, 20), tmp_path / "small.part")
    with Image.open(tmp_path / "small.part") as picture:
        assert picture.format == "PNG"


# identity


def test_digest_is_of_pixels_and_shape() -> None:
    x = torch.rand((1, 3, 16, 20), generator=torch.Generator().manual_seed(0))
    assert digest(x) == digest(x.clone())
    assert len(digest(x)) == 16
    assert int(digest(x), 16) >= 0
    changed = x.clone()
    changed[0, 2, 15, 19] += 1e-6
    others = [changed, x.reshape(1, 3, 20, 16), x.reshape(1, 1, 48, 20), x.flip(3), x[:, [2, 1, 0]]]
    assert len({digest(x), *map(digest, others)}) == 6


def test_digest_does_not_see_how_the_pixels_lie_in_memory() -> None:
    x = torch.rand((1, 3, 16, 20), generator=torch.Generator().manual_seed(0))
    assert digest(x.to(memory_format=torch.channels_last)) == digest(x)
    assert digest(x.clone().requires_grad_()) == digest(x)


def test_digest_is_the_same_on_every_machine() -> None:
    ramp = torch.arange(768, dtype=torch.float32).reshape(1, 3, 16, 16) / 1024
    assert digest(ramp) == "16764e4ddd5552cc"


def test_a_name_that_no_record_can_hold_is_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    Image.fromarray(COLOUR).save(path)
    with pytest.raises(UsageError, match=r"caf\\udce9.png': a name that is no UTF-8"):
        read(path)


def test_a_picture_has_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    given = ("a.png", "./a.png", str(tmp_path / "a.png"), "link/a.png")
    assert {normal(name) for name in given} == {str((tmp_path / "a.png").resolve())}
    assert normal("skimage:coffee") == "skimage:coffee"
