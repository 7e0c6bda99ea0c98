"""A person's own file comes back as it was, or is refused with one line: tried against others' readers and writers."""

import io
import itertools
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from dipsearch.error import DipsearchError, UsageError
from dipsearch.photo import FORMATS, LARGEST, Photo, check_photo, load_photo, png, save_photo, writer

WIDTH, HEIGHT = 24, 20
MODES = {"grey": 1, "grey-alpha": 2, "rgb": 3, "rgba": 4}
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def made(dtype: str, channels: int) -> np.ndarray:
    """(H, W, channels) random samples that use the whole range; floats are of -2…6, in steps that float16 holds."""
    random = np.random.default_rng(channels)
    if dtype.startswith("float"):
        values = random.integers(0, 257, (HEIGHT, WIDTH, channels)) / 32.0 - 2
        values[0, 0], values[0, 1] = -2, 6
        if channels in (2, 4):
            values[:, :, -1] = random.integers(0, 257, (HEIGHT, WIDTH)) / 256
        return values.astype(dtype)
    values = random.integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH, channels), endpoint=True, dtype=dtype)
    values[0, 0], values[0, 1] = 0, np.iinfo(dtype).max
    return values


def squeezed(samples: np.ndarray) -> np.ndarray:
    return samples[:, :, 0] if samples.shape[2] == 1 else samples


def written(samples: np.ndarray, path: Path, **options: object) -> Path:
    """A file that dipsearch has no part in."""
    channels = samples.shape[2]
    if path.suffix == ".tif":
        tifffile.imwrite(
            path,
            squeezed(samples),
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
            **options,
        )
    elif samples.dtype == np.uint16:
        path.write_bytes(imagecodecs.png_encode(squeezed(samples)))
    else:
        lossless = {"lossless": True, "exact": True} if path.suffix == ".webp" else {}
        Image.fromarray(squeezed(samples)).save(path, **lossless, **options)
    return path


def seen(path: Path) -> np.ndarray:
    """The samples of a file, by a reader that dipsearch has no part in, (H, W, channels)."""
    if path.suffix == ".tif":
        samples = tifffile.imread(path)
    elif path.suffix == ".png":
        samples = imagecodecs.png_decode(path.read_bytes())
    else:
        with Image.open(path) as picture:
            samples = np.asarray(picture)
    return samples[:, :, None] if samples.ndim == 2 else samples


def levels(loaded: Photo) -> np.ndarray:
    """(H, W, channels) of the file's own values, alpha the last."""
    values = loaded.x[0].movedim(0, 2).double().numpy() * (loaded.high - loaded.low) + loaded.low
    values = values if loaded.dtype.startswith("float") else values.round()
    colour = values.astype(loaded.dtype)
    return colour if loaded.alpha is None else np.dstack([colour, loaded.alpha])


def photo_of(samples: np.ndarray, folder: Path, **options: object) -> Photo:
    return load_photo(written(samples, folder / "made.tif", **options))


def files_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# what is read and written


HELD = [
    *itertools.product(["uint8"], MODES, [".png", ".tif"]),
    *itertools.product(["uint16"], MODES, [".png", ".tif"]),
    *itertools.product(["float16", "float32", "float64"], MODES, [".tif"]),
    *itertools.product(["uint8"], ["grey", "rgb"], [".bmp"]),
    *itertools.product(["uint8"], ["rgb", "rgba"], [".webp"]),
]


@pytest.mark.parametrize(("dtype", "mode", "extension"), HELD)
def test_a_file_comes_back_as_it_was(tmp_path: Path, dtype: str, mode: str, extension: str) -> None:
    samples = made(dtype, MODES[mode])
    path, copy = written(samples, tmp_path / f"a{extension}"), tmp_path / f"b{extension}"
    loaded = load_photo(path)
    assert loaded.x.shape == (1, 1 if "grey" in mode else 3, HEIGHT, WIDTH)
    assert loaded.x.dtype == torch.float32 and loaded.x.is_contiguous()
    assert (loaded.alpha is not None) == (mode in ("grey-alpha", "rgba"))
    assert loaded.dtype == dtype
    assert (loaded.low, loaded.high) == {"uint8": (0, 255), "uint16": (0, 65535)}.get(dtype, (-2, 6))
    assert float(loaded.x.min()) == 0 and float(loaded.x.max()) == 1
    np.testing.assert_array_equal(levels(loaded), samples)
    check_photo(copy, loaded)
    save_photo(loaded.x, copy, loaded)
    assert seen(copy).dtype == samples.dtype
    np.testing.assert_array_equal(seen(copy), samples)
    again = load_photo(copy)
    assert torch.equal(again.x, loaded.x)
    np.testing.assert_array_equal(levels(again), samples)
    assert (again.dtype, again.low, again.high) == (loaded.dtype, loaded.low, loaded.high)
    assert files_in(tmp_path) == sorted([path.name, copy.name])


def test_every_format_is_tried_here() -> None:
    assert {FORMATS[extension] for _, _, extension in HELD} | {"JPEG"} == set(FORMATS.values())


@pytest.mark.parametrize("source", [".png", ".tif"])
@pytest.mark.parametrize("target", [".png", ".tif", ".bmp", ".webp"])
def test_another_format_holds_the_same_samples(tmp_path: Path, source: str, target: str) -> None:
    samples = made("uint8", 3)
    loaded = load_photo(written(samples, tmp_path / f"a{source}"))
    save_photo(loaded.x, tmp_path / f"b{target}", loaded)
    np.testing.assert_array_equal(seen(tmp_path / f"b{target}"), samples)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_read_as_it_is_and_written_without_subsampling(tmp_path: Path, channels: int) -> None:
    smooth = np.zeros((HEIGHT, WIDTH, channels), np.uint8)
    smooth[:, ::2] = 40  # stripes of a pixel: subsampled chroma would mix them
    smooth[..., 0] += np.arange(WIDTH, dtype=np.uint8) * 8
    loaded = load_photo(written(smooth, tmp_path / "a.jpg", quality=80))
    np.testing.assert_array_equal(levels(loaded), seen(tmp_path / "a.jpg"))
    save_photo(loaded.x, tmp_path / "b.jpeg", loaded)
    with Image.open(tmp_path / "b.jpeg") as picture:
        assert picture.format == "JPEG" and picture.mode == {1: "L", 3: "RGB"}[channels]
        assert {sampling[1:3] for sampling in picture.layer} == {(1, 1)}
        assert picture.quantization[0][0] == 2  # of quality 95
        assert np.abs(np.asarray(picture).astype(int) - squeezed(levels(loaded)).astype(int)).max() <= 8


def test_values_are_clamped_and_rounded(tmp_path: Path) -> None:
    like = photo_of(made("uint8", 1), tmp_path)
    x = torch.zeros(1, 1, HEIGHT, WIDTH)
    x[0, 0, 0, :6] = torch.tensor([-1.0, 2.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255])
    save_photo(x, tmp_path / "b.png", like)
    assert seen(tmp_path / "b.png")[0, :6, 0].tolist() == [0, 255, 0, 1, 254, 255]


def test_a_tensor_that_learns_is_written(tmp_path: Path) -> None:
    like = photo_of(made("uint16", 3), tmp_path)
    save_photo(like.x.clone().requires_grad_(), tmp_path / "b.png", like)
    np.testing.assert_array_equal(seen(tmp_path / "b.png"), made("uint16", 3))


@pytest.mark.parametrize("x", [torch.zeros(1, 1, 20, 24), torch.full((1, 3, 20, 24), torch.nan)])
def test_what_is_no_such_picture_is_not_written(tmp_path: Path, x: torch.Tensor) -> None:
    like = photo_of(made("uint8", 3), tmp_path)
    with pytest.raises(ValueError, match="expected 3 channels of finite numbers"):
        save_photo(x, tmp_path / "b.png", like)
    assert files_in(tmp_path) == ["made.tif"]


# modes


def test_a_palette_becomes_rgb(tmp_path: Path) -> None:
    table = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 30]], dtype=np.uint8)
    index = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3).astype(np.uint8)
    indexed = Image.fromarray(index)
    indexed.putpalette(table.tobytes())
    for extension in (".png", ".tif", ".bmp"):
        indexed.save(tmp_path / f"p{extension}")
        loaded = load_photo(tmp_path / f"p{extension}")
        np.testing.assert_array_equal(levels(loaded), table[index])
        assert loaded.notes == ("a palette: written as RGB",)
    indexed.save(tmp_path / "t.png", transparency=bytes([0, 200, 255]))
    loaded = load_photo(tmp_path / "t.png")
    np.testing.assert_array_equal(levels(loaded), np.dstack([table[index], np.array([0, 200, 255], np.uint8)[index]]))


@pytest.mark.parametrize(("extension", "options"), [(".png", {}), (".tif", {}), (".tif", {"compression": "group4"})])
def test_one_bit_becomes_grey(tmp_path: Path, extension: str, options: dict[str, str]) -> None:
    white = np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    Image.fromarray(white).save(tmp_path / f"b{extension}", **options)
    loaded = load_photo(tmp_path / f"b{extension}")
    np.testing.assert_array_equal(levels(loaded)[:, :, 0], np.where(white, 255, 0))
    assert len(loaded.notes) == 1 and "bit" in loaded.notes[0]


def test_one_transparent_colour_becomes_alpha(tmp_path: Path) -> None:
    samples = made("uint8", 3)
    Image.fromarray(samples).save(tmp_path / "a.png", transparency=tuple(samples[3, 4].tolist()))
    loaded = load_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(levels(loaded)[:, :, :3], samples)
    expected = np.where((samples == samples[3, 4]).all(2), 0, 255)
    assert 0 in expected
    np.testing.assert_array_equal(loaded.alpha, expected)
    deep = made("uint16", 1)[:, :, 0]
    Image.fromarray(deep).save(tmp_path / "b.png", transparency=int(deep[3, 4]))
    loaded = load_photo(tmp_path / "b.png")
    np.testing.assert_array_equal(levels(loaded), np.dstack([deep, np.where(deep == deep[3, 4], 0, 65535)]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate"},
        {"byteorder": ">"},
        {"bigtiff": True},
        {"tile": (16, 16)},
        {"rowsperstrip": 3},
        {"compression": "lzw", "predictor": True},
        {"compression": "zstd"},
    ],
)
def test_every_layout_of_tiff_is_the_same_picture(tmp_path: Path, dtype: str, options: dict[str, object]) -> None:
    samples = made(dtype, 4)
    stored = np.moveaxis(samples, 2, 0) if "planarconfig" in options else samples
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["unassalpha"], **options)
    loaded = load_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(levels(loaded), samples)
    assert loaded.alpha is not None and loaded.alpha.dtype.isnative


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_at_zero_is_turned(tmp_path: Path, dtype: str) -> None:
    samples = made(dtype, 1)
    tifffile.imwrite(tmp_path / "a.tif", samples[:, :, 0], photometric="miniswhite")
    np.testing.assert_array_equal(levels(load_photo(tmp_path / "a.tif")), np.iinfo(dtype).max - samples)


def test_jpeg_within_tiff(tmp_path: Path) -> None:
    flat = np.full((HEIGHT, WIDTH, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.tif", compression="jpeg", quality=95)
    assert np.abs(levels(load_photo(tmp_path / "a.tif")).astype(int) - flat).max() <= 3


def test_premultiplied_alpha_is_divided_out(tmp_path: Path) -> None:
    samples = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    samples[:10] = (50, 20, 100, 100)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["assocalpha"])
    loaded = load_photo(tmp_path / "a.tif")
    assert levels(loaded)[0, 0].tolist() == [128, 51, 255, 100]  # 50 * 255 / 100 is 127.5
    assert levels(loaded)[-1, 0].tolist() == [0, 0, 0, 0]
    assert loaded.notes == ("premultiplied alpha: written not premultiplied",)
    save_photo(loaded.x, tmp_path / "b.tif", loaded)
    again = load_photo(tmp_path / "b.tif")
    np.testing.assert_array_equal(levels(again), levels(loaded))
    assert again.notes == ()


def test_a_channel_that_is_no_alpha_is_left_out(tmp_path: Path) -> None:
    samples = made("uint16", 4)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unspecified"])
    loaded = load_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(levels(loaded), samples[:, :, :3])
    assert loaded.alpha is None and "left out" in loaded.notes[0]


def test_a_small_copy_in_the_same_file_is_left_out(tmp_path: Path) -> None:
    samples = made("uint16", 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as opened:
        opened.write(samples[::2, ::2], photometric="rgb", subfiletype=1)
        opened.write(samples, photometric="rgb")
    loaded = load_photo(tmp_path / "a.tif")
    np.testing.assert_array_equal(levels(loaded), samples)
    assert loaded.notes == ("small copies in the same file: left out",)


def test_words_in_a_file_are_left_out_and_that_is_said(tmp_path: Path) -> None:
    picture, words = Image.fromarray(made("uint8", 3)), PngImagePlugin.PngInfo()
    words.add_text("Author", "somebody")
    words.add(b"gAMA", (45455).to_bytes(4, "big"))
    picture.save(tmp_path / "a.png", pnginfo=words)
    picture.save(tmp_path / "a.jpg", comment=b"a comment")
    tifffile.imwrite(tmp_path / "a.tif", np.asarray(picture), photometric="rgb", extratags=[(315, 2, 0, "me", True)])
    said = {"a.png": "gamma, text: left out", "a.jpg": "comment: left out", "a.tif": "artist: left out"}
    assert {name: load_photo(tmp_path / name).notes for name in said} == {name: (note,) for name, note in said.items()}


@pytest.mark.parametrize(
    ("tags", "note"),
    [
        ([(700, 1, 4, b"<x/>", True)], "XMP"),
        (
            [(271, 2, 0, "maker", True), (272, 2, 0, "model", True), (306, 2, 0, "2020:01:01 00:00:00", True)],
            "camera, date",
        ),
        ([(33550, 12, 3, (1.0, 1.0, 0.0), True), (42113, 2, 0, "-9999", True)], "georeference, no-data value"),
    ],
    ids=str,
)
def test_what_a_tiff_tells_is_said_to_be_left_out(tmp_path: Path, tags: list[tuple[object, ...]], note: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", made("uint16", 1)[:, :, 0], extratags=tags)
    assert load_photo(tmp_path / "a.tif").notes == (f"{note}: left out",)


def test_resolution_turns_with_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # orientation
    Image.fromarray(made("uint8", 3)).save(tmp_path / "a.jpg", exif=exif, dpi=(300, 150))
    assert load_photo(tmp_path / "a.jpg").dpi == (150, 300)


def test_alpha_of_floats_may_count_to_255(tmp_path: Path) -> None:
    samples = np.dstack([made("uint8", 3), np.full((HEIGHT, WIDTH), 255)]).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="rgb", extrasamples=["unassalpha"])
    assert load_photo(tmp_path / "a.tif").opaque == 255


def test_a_telephone_s_second_picture_is_left_out(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (WIDTH, HEIGHT), (shade, 0, 0)) for shade in (200, 50))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    loaded = load_photo(tmp_path / "a.jpg")
    assert abs(float(loaded.x[:, 0].mean()) * 255 - 200) < 2
    assert loaded.notes == ("further pictures in the same file: left out",)


@pytest.mark.parametrize("clear", [False, True], ids=["opaque", "one level transparent"])
@pytest.mark.parametrize("depth", [2, 4])
def test_grey_of_few_bits_is_spread_to_8(tmp_path: Path, depth: int, clear: bool) -> None:
    packed = np.arange(HEIGHT * WIDTH * depth // 8).reshape(HEIGHT, -1).astype(np.uint8)
    shades = np.stack([packed >> shift & (2**depth - 1) for shift in range(8 - depth, -1, -depth)], -1)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, 0, 0, 0, 0)
    transparent = png.chunk(b"tRNS", struct.pack(">H", 2)) if clear else b""
    chunks = png.chunk(b"IHDR", header) + transparent + png.chunk(b"IDAT", rows) + png.chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png.MAGIC + chunks)
    loaded = load_photo(tmp_path / "a.png")
    assert (loaded.alpha is None) is not clear
    if clear:
        np.testing.assert_array_equal(loaded.alpha == 0, shades.reshape(HEIGHT, WIDTH) == 2)
    np.testing.assert_array_equal(levels(loaded)[:, :, 0], shades.reshape(HEIGHT, WIDTH) * (255 // (2**depth - 1)))
    assert loaded.notes == (f"{depth}-bit grey: written with 8 bits",)


# floating-point numbers


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_are_not_rounded(tmp_path: Path, dtype: str) -> None:
    samples = (np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3)) * 100).astype(dtype)
    loaded = photo_of(samples, tmp_path)
    assert (loaded.low, loaded.high) == (float(samples.min()), float(samples.max()))
    save_photo(loaded.x, tmp_path / "b.tif", loaded)
    copy = seen(tmp_path / "b.tif")
    assert copy.dtype == samples.dtype
    step = (loaded.high - loaded.low) * 2**-24 + np.finfo(dtype).eps * 100 * (dtype == "float16")
    assert np.abs(copy.astype(float) - samples.astype(float)).max() <= step
    assert (copy.min(), copy.max()) == (samples.min(), samples.max())
    assert bool(loaded.notes) == (dtype == "float64")


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0, 1e30, 3e38])
def test_a_constant_picture_has_a_range(tmp_path: Path, value: float) -> None:
    loaded = photo_of(np.full((HEIGHT, WIDTH, 1), value, np.float32), tmp_path)
    assert not loaded.x.any() and loaded.high > loaded.low == np.float32(value)
    save_photo(loaded.x, tmp_path / "b.tif", loaded)
    assert (seen(tmp_path / "b.tif") == np.float32(value)).all()
    save_photo(loaded.x + 1, tmp_path / "b.tif", loaded)
    assert np.isfinite(seen(tmp_path / "b.tif")).all()


# orientation, colour profile, resolution


@pytest.mark.parametrize("extension", [".png", ".tif", ".webp", ".jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(tmp_path: Path, orientation: int, extension: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = written(made("uint8", 3), tmp_path / f"a{extension}", **({} if extension == ".tif" else {"exif": exif}))
    if extension == ".tif":
        written(made("uint8", 3), path, extratags=[(274, "H", 1, orientation, True)])
    with Image.open(path) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture))
    assert expected.shape[:2] == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    loaded = load_photo(path)
    np.testing.assert_array_equal(levels(loaded), expected)
    assert loaded.notes == ()
    save_photo(loaded.x, path, loaded)
    with Image.open(path) as picture:
        assert picture.getexif().get(274, 1) == 1
        assert picture.size == expected.shape[1::-1]


def test_a_deep_png_is_upright_with_its_alpha(tmp_path: Path) -> None:
    samples, exif = made("uint16", 4), Image.Exif()
    exif[274] = 6  # clockwise by 90°
    written(samples, tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    for place in (33, len(content) - 12):  # before and after the samples
        chunk = png.chunk(b"eXIf", exif.tobytes()[6:])
        (tmp_path / "a.png").write_bytes(content[:place] + chunk + content[place:])
        np.testing.assert_array_equal(levels(load_photo(tmp_path / "a.png")), np.rot90(samples, -1))


@pytest.mark.parametrize(
    ("dtype", "extension"),
    [
        ("uint8", ".png"),
        ("uint16", ".png"),
        ("uint8", ".tif"),
        ("float32", ".tif"),
        ("uint8", ".jpg"),
        ("uint8", ".webp"),
    ],
)
def test_colour_profile_and_resolution_are_carried(tmp_path: Path, dtype: str, extension: str) -> None:
    like = photo_of(made(dtype, 3), tmp_path, iccprofile=ICC, resolution=(300, 200), resolutionunit="INCH")
    assert like.icc == ICC and like.dpi == (300, 200)
    path = tmp_path / f"b{extension}"
    save_photo(like.x, path, like)
    with Image.open(path) if dtype == "uint8" else io.BytesIO() as picture:
        if dtype == "uint8":
            assert picture.info["icc_profile"] == ICC
    loaded = load_photo(path)
    assert loaded.icc == ICC
    assert loaded.dpi == (None if extension == ".webp" else pytest.approx((300, 200), abs=0.05))
    assert torch.equal(loaded.x, like.x) or extension == ".jpg"


def test_what_libpng_reads_of_a_deep_png_is_whole(tmp_path: Path) -> None:
    samples = made("uint16", 4)
    like = photo_of(samples, tmp_path, iccprofile=ICC, resolution=(300, 300), resolutionunit="INCH")
    save_photo(like.x, tmp_path / "b.png", like)
    np.testing.assert_array_equal(imagecodecs.png_decode((tmp_path / "b.png").read_bytes()), samples)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.info["icc_profile"] == ICC and picture.info["dpi"] == pytest.approx((300, 300), abs=0.05)
        picture.verify()


def test_resolution_of_centimetres(tmp_path: Path) -> None:
    like = photo_of(made("uint8", 1), tmp_path, resolution=(100, 100), resolutionunit="CENTIMETER")
    assert like.dpi == pytest.approx((254, 254))
    assert photo_of(made("uint8", 1), tmp_path, resolution=(100, 100), resolutionunit="NONE").dpi is None


def test_a_camera_s_data_is_said_to_be_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "a camera"
    assert "EXIF" in load_photo(written(made("uint8", 3), tmp_path / "a.jpg", exif=exif)).notes[0]


# alpha of another size


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_alpha_is_resampled(tmp_path: Path, dtype: str, factor: int) -> None:
    top = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    samples = made(dtype, 4)
    samples[:, : WIDTH // 2, 3], samples[:, WIDTH // 2 :, 3] = 0, top
    like = photo_of(samples, tmp_path)
    save_photo(torch.zeros(1, 3, HEIGHT * factor, WIDTH * factor), tmp_path / "b.tif", like)
    copy = seen(tmp_path / "b.tif")
    assert copy.shape == (HEIGHT * factor, WIDTH * factor, 4) and copy.dtype == samples.dtype
    alpha, border = copy[:, :, 3], WIDTH // 2 * factor
    assert (alpha[:, : border - 3 * factor] == 0).all() and (alpha[:, border + 3 * factor :] == top).all()
    assert alpha.min() == 0 and alpha.max() == top
    assert abs(float(alpha[:, border - 2 : border + 2].mean()) / top - 0.5) < 0.01


# what is refused


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def with_value(value: float) -> np.ndarray:
    samples = np.zeros((HEIGHT, WIDTH), np.float32)
    samples[3, 4] = value
    return samples


PLAIN = np.zeros((HEIGHT, WIDTH), np.uint8)
FRAMES = [Image.fromarray(PLAIN + shade) for shade in (0, 100, 200)]
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "cmyk-jpeg": (lambda: encoded(Image.new("CMYK", (WIDTH, HEIGHT)), "JPEG"), "CMYK.*convert"),
    "cmyk-tiff": (lambda: encoded(Image.new("CMYK", (WIDTH, HEIGHT)), "TIFF"), "CMYK.*convert"),
    "lab": (lambda: encoded(Image.new("LAB", (WIDTH, HEIGHT)), "TIFF"), "CIELAB.*convert"),
    "pages": (lambda: encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "3 pages"),
    "stack": (lambda: tiff(np.zeros((5, HEIGHT, WIDTH), np.uint8), photometric="minisblack"), "5 pages"),
    "imagej": (lambda: tiff(np.zeros((5, HEIGHT, WIDTH), np.uint8), imagej=True), "5 pages"),
    "one-page-stack": (lambda: tiff(np.zeros((5, HEIGHT, WIDTH), np.uint8), truncate=True), "5 pages"),
    "animation": (lambda: encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "3 pages"),
    "nan": (lambda: tiff(with_value(np.nan)), "NaN"),
    "infinity": (lambda: tiff(with_value(-np.inf)), "infinity"),
    "range": (lambda: tiff(np.linspace(-1.7, 1.7, 480).reshape(HEIGHT, WIDTH) * 1e308), "too far apart"),
    **{
        name: (lambda name=name: tiff(np.zeros((HEIGHT, WIDTH), name)), "save it with 8 or 16 bits")
        for name in ("int8", "int16", "uint32", "int32", "uint64", "complex64")
    },
    "12-bit": (lambda: tiff(PLAIN.astype(np.uint16), bitspersample=12), "12-bit.*save it with 8 or 16 bits"),
    "5-channels": (lambda: tiff(np.zeros((HEIGHT, WIDTH, 5), np.uint8), photometric="rgb"), "5 channels"),
    "16-bit-palette": (
        lambda: tiff(PLAIN.astype(np.uint16), photometric="palette", colormap=np.zeros((3, 65536), np.uint16)),
        "palette",
    ),
    "ycbcr": (lambda: tiff(made("uint8", 3), photometric="ycbcr"), "uncompressed YCbCr"),
    "thunderscan": (lambda: with_tag(tiff(PLAIN), 259, 32809), "THUNDERSCAN compression is not supported"),
    "lzw": (lambda: broken_lzw(), "not a readable picture"),
    "small-tiff": (lambda: tiff(np.zeros((15, 64), np.uint8)), "64x15 is too small"),
    "large-tiff": (lambda: large_tiff(), f"5100x5100 is too large; at most {LARGEST}"),
    "truncated-tiff": (lambda: tiff(made("uint8", 3), photometric="rgb")[:-9], "truncated"),
    "empty": (lambda: b"", "not a readable picture"),
    "text": (lambda: b"this is no picture\n" * 20, "not a readable picture"),
    "tiff-header": (lambda: b"II*\0" + bytes(20), "not a readable picture"),
}


def with_tag(whole: bytes, tag: int, value: int) -> bytes:
    """A file whose tag of 16 bits is changed where it lies."""
    content = bytearray(whole)
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        offset = opened.pages[0].tags[tag].valueoffset
    content[offset : offset + 2] = value.to_bytes(2, "little")
    return bytes(content)


def large_tiff() -> bytes:
    """5100x5100 by its header."""
    return with_tag(with_tag(tiff(PLAIN), 256, 5100), 257, 5100)


def broken_lzw() -> bytes:
    """A stream whose codes stand for nothing that came before."""
    content = bytearray(tiff(made("uint16", 3), photometric="rgb", compression="lzw"))
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        start = opened.pages[0].dataoffsets[0]
    content[start + 9 : start + 99] = b"\xff" * 90
    return bytes(content)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    content, words = REFUSED[case]
    path = tmp_path / "picture"
    path.write_bytes(content())
    with pytest.raises(UsageError, match=words) as error:
        load_photo(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_no_file_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.png: .*No such file"):
        load_photo(tmp_path / "nowhere.png")
    with pytest.raises(UsageError, match="Is a directory"):
        load_photo(tmp_path)

    def forbidden(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(UsageError, match=r"a\.png: .*Permission denied$"):
        load_photo(tmp_path / "a.png")


CANNOT = [
    ("uint8", 4, "b.jpg", "JPEG holds no transparency; write it as PNG or TIFF or WEBP"),
    ("uint8", 4, "b.bmp", "BMP holds no transparency; write it as PNG or TIFF or WEBP"),
    *[("uint16", 1, f"b{end}", "no uint16 samples; write it as PNG or TIFF") for end in (".jpg", ".bmp", ".webp")],
    *[("float32", 1, f"b{end}", "no float32 samples; write it as TIFF") for end in (".png", ".jpeg", ".bmp", ".webp")],
    ("uint8", 1, "b.xyz", r"choose from: \.png, \.jpg"),
    ("uint8", 1, "b", r"choose from: \.png, \.jpg"),
]


@pytest.mark.parametrize(("dtype", "channels", "name", "words"), CANNOT)
def test_what_a_format_cannot_hold(tmp_path: Path, dtype: str, channels: int, name: str, words: str) -> None:
    like = photo_of(made(dtype, channels), tmp_path)
    for attempt in (lambda: check_photo(tmp_path / name, like), lambda: save_photo(like.x, tmp_path / name, like)):
        with pytest.raises(UsageError, match=words) as error:
            attempt()
        assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert files_in(tmp_path) == ["made.tif"]


def test_opaque_alpha_is_no_hindrance(tmp_path: Path) -> None:
    samples = made("uint8", 4)
    samples[:, :, 3] = 255
    like = photo_of(samples, tmp_path)
    save_photo(like.x, tmp_path / "b.bmp", like)
    np.testing.assert_array_equal(seen(tmp_path / "b.bmp"), samples[:, :, :3])
    save_photo(like.x, tmp_path / "b.png", like)
    np.testing.assert_array_equal(seen(tmp_path / "b.png"), samples)


def test_a_colour_profile_is_not_lost_unseen(tmp_path: Path) -> None:
    like = photo_of(made("uint8", 3), tmp_path, iccprofile=ICC)
    with pytest.raises(UsageError, match="BMP holds no colour profile; write it as PNG or JPEG or TIFF or WEBP"):
        check_photo(tmp_path / "b.bmp", like)
    grey = photo_of(made("uint8", 1), tmp_path, iccprofile=ICC)
    with pytest.raises(UsageError, match="WEBP holds no colour profile; write it as PNG or JPEG or TIFF"):
        check_photo(tmp_path / "b.webp", grey)  # its pictures have three channels, which this is not a profile of


@pytest.mark.parametrize(("name", "longest"), [("b.jpg", 65_500), ("b.webp", 16_383)])
def test_the_longest_side_that_a_format_holds(tmp_path: Path, name: str, longest: int) -> None:
    like = photo_of(made("uint8", 1), tmp_path)
    path, kind = tmp_path / name, FORMATS[Path(name).suffix]
    save_photo(torch.zeros(1, 1, 16, longest), path, like)
    with Image.open(path) as picture:
        assert picture.size == (longest, 16)
    path.unlink()
    with pytest.raises(UsageError, match=f"{longest + 1}x16 is too large for {kind}; write it as PNG or TIFF"):
        save_photo(torch.zeros(1, 1, 16, longest + 1), path, like)
    assert files_in(tmp_path) == ["made.tif"]


@pytest.mark.parametrize(("name", "longest"), [("b.jpg", 65_500), ("b.webp", 16_383)])
def test_a_result_of_another_size_is_checked_by_its_own(tmp_path: Path, name: str, longest: int) -> None:
    path, like = tmp_path / name, photo_of(made("uint8", 1), tmp_path)
    check_photo(path, like)
    check_photo(path, like, (longest, longest))
    check_photo(tmp_path / "b.png", like, (16, longest + 1))
    for height, width in ((16, longest + 1), (longest + 1, 16)):
        with pytest.raises(UsageError, match=f"{width}x{height} is too large for {FORMATS[path.suffix]}"):
            check_photo(path, like, (height, width))
    wide = replace(like, x=torch.zeros(1, 1, 16, longest + 1))
    with pytest.raises(UsageError, match="too large"):
        check_photo(path, wide)
    check_photo(path, wide, (8, longest))  # as of a picture that is shrunk


WITHOUT = """
import sys
sys.modules["imagecodecs"] = None  # as where it is not installed
from pathlib import Path
from dipsearch.error import UsageError
from dipsearch.photo import check_photo, load_photo, save_photo

for name in sys.argv[1:]:
    try:
        like = load_photo(Path(name))
        print(name, like.dtype, int(like.x.double().mul(like.high).round().sum()))
        save_photo(like.x, Path(name).with_suffix(".copy.tif"), like)
        check_photo(Path(name).with_suffix(".png"), like)
    except UsageError as error:
        print(error)
"""


def test_without_imagecodecs_nothing_is_cut(tmp_path: Path) -> None:
    """Pillow takes the place where it keeps the depth; else the error says what to install."""
    deep, grey = made("uint16", 3), made("uint16", 1)
    colour = made("uint8", 3)
    written(deep, tmp_path / "a.png")
    written(grey, tmp_path / "b.png")
    written(deep, tmp_path / "c.tif", compression="lzw")
    written(grey, tmp_path / "d.tif", compression="lzw")
    written(colour, tmp_path / "e.tif", compression="lzw", extratags=[(274, "H", 1, 6, True)], iccprofile=ICC)
    written(deep, tmp_path / "f.tif", compression="zlib")
    names = [str(tmp_path / name) for name in ("a.png", "b.png", "c.tif", "d.tif", "e.tif", "f.tif")]
    command = [sys.executable, "-c", WITHOUT, *names]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.removeprefix(f"{tmp_path}/") for line in told.stdout.splitlines()]
    assert told.stderr == ""
    install = "pip install 'dipsearch[formats]'"
    assert lines[0].startswith("a.png: 16-bit colour PNG would be cut") and lines[0].endswith(install)
    assert lines[1] == f"b.png uint16 {grey.sum(dtype=int)}"
    assert lines[2].startswith("c.tif: TIFF with LZW") and lines[2].endswith(install)
    assert lines[3] == f"d.tif uint16 {grey.sum(dtype=int)}"
    assert lines[4] == f"e.tif uint8 {colour.sum(dtype=int)}"
    assert lines[5] == f"f.tif uint16 {deep.sum(dtype=int)}"
    assert lines[6].startswith("f.png: 16-bit colour PNG cannot be written") and lines[6].endswith(install)
    np.testing.assert_array_equal(seen(tmp_path / "f.copy.tif"), deep)
    np.testing.assert_array_equal(seen(tmp_path / "e.copy.tif"), np.rot90(colour, -1))


# nothing half-written


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("broken\nencoder"), MemoryError()]
)
@pytest.mark.parametrize("name", ["b.png", "b.tif"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    like = photo_of(made("uint16", 3), tmp_path)
    (tmp_path / name).write_text("before")

    def half(samples: np.ndarray, path: Path, like: Photo) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(writer, "encode_tiff" if name == "b.tif" else "encode_deep_png", half)
    with pytest.raises(DipsearchError, match="cannot be written") as caught:
        save_photo(like.x, tmp_path / name, like)
    assert str(caught.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(caught.value)
    assert (tmp_path / name).read_text() == "before"
    assert files_in(tmp_path) == sorted(["made.tif", name])


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    like = photo_of(made("uint8", 3), tmp_path)
    with pytest.raises(DipsearchError, match=r"b\.png: cannot be written"):
        save_photo(like.x, tmp_path / "made.tif" / "b.png", like)
    assert files_in(tmp_path) == ["made.tif"]


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from dipsearch.error import DipsearchError
from dipsearch.photo import load_photo, save_photo

folder = Path(sys.argv[1])
like = load_photo(folder / "a.tif")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
for name in ("b.png", "b.tif", "b.jpg", "b.bmp", "b.webp"):
    try:
        save_photo(like.x, folder / name, like)
    except DipsearchError as error:
        print(error)
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    written(made("uint8", 3), tmp_path / "a.tif")
    told = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert [line.split(": ")[1] for line in told.stdout.splitlines()] == ["cannot be written"] * 5
    assert told.stderr == ""
    assert files_in(tmp_path) == ["a.tif"]


# broken files


def _whole() -> dict[str, bytes]:
    """Small valid files of every kind."""
    colour, deep = made("uint8", 3), made("uint16", 3)
    picture = Image.fromarray(colour)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a camera"
    common = {"icc_profile": ICC[:300], "dpi": (300, 300), "exif": exif}
    return {
        **{kind.lower(): encoded(picture, kind, **common) for kind in ("PNG", "JPEG", "WEBP")},
        "palette": encoded(picture.quantize(8), "PNG", transparency=3),
        "grey16": encoded(Image.fromarray(deep[:, :, 0]), "PNG"),
        "png16": imagecodecs.png_encode(deep),
        "bmp": encoded(picture, "BMP"),
        "gif": encoded(picture, "GIF"),
        "ppm": encoded(picture, "PPM"),
        "tiff": tiff(colour, photometric="rgb", iccprofile=ICC[:300], resolution=(300, 300)),
        "tiff16": tiff(deep, photometric="rgb", compression="zlib", rowsperstrip=4, byteorder=">"),
        "tiff-lzw": tiff(deep, photometric="rgb", compression="lzw", predictor=True),
        "tiff-float": tiff(made("float32", 1)[:, :, 0], compression="zlib", tile=(16, 16)),
        "tiff-jpeg": encoded(picture, "TIFF", compression="jpeg"),
        "tiff-palette": encoded(picture.quantize(8), "TIFF"),
        "tiff-fax": encoded(Image.fromarray(colour[:, :, 0] > 99), "TIFF", compression="group4"),
        "imagej": tiff(deep[:, :, 0], imagej=True),
    }


WHOLE = _whole()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broken")


def read_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        loaded = load_photo(path)
    except UsageError as error:
        assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
        return
    assert loaded.x.dtype == torch.float32 and loaded.x.shape[1] in (1, 3)
    assert bool(((loaded.x >= 0) & (loaded.x <= 1)).all())
    assert loaded.alpha is None or loaded.alpha.shape == tuple(loaded.x.shape[-2:])


def test_whole_files_are_read(shelf: Path) -> None:
    for name, content in WHOLE.items():
        (shelf / name).write_bytes(content)
        assert set(load_photo(shelf / name).x.shape[-2:]) == {WIDTH, HEIGHT}, name


@settings(max_examples=300, deadline=4000, database=None)
@given(st.data())
def test_a_broken_file_is_a_picture_or_an_error_of_one_line(shelf: Path, data: st.DataObject) -> None:
    whole = WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))]
    broken = bytearray(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    # headers and tables, which say what to do, lie at both ends
    place = st.one_of(st.integers(0, len(whole)), st.integers(0, 300), st.integers(len(whole) - 300, len(whole)))
    for offset, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)):
        if 0 <= offset < len(broken):
            broken[offset] = value
    read_or_refused(shelf / "broken", bytes(broken))


@pytest.mark.parametrize("name", WHOLE)
def test_a_shortened_file_is_a_picture_or_an_error_of_one_line(shelf: Path, name: str) -> None:
    whole = WHOLE[name]
    for length in sorted({*range(0, 64, 3), *range(0, len(whole), max(1, len(whole) // 40))}):
        read_or_refused(shelf / "short", whole[:length])


@pytest.mark.parametrize("count", [1, 2])
def test_a_ring_of_pages_has_an_end(shelf: Path, count: int) -> None:
    """The last page says that the first comes next."""
    content = bytearray(tiff(np.zeros((count, HEIGHT, WIDTH), np.uint8), photometric="minisblack", metadata=None))
    with tifffile.TiffFile(io.BytesIO(content)) as opened:
        first, last = opened.pages[0], opened.pages[count - 1]
        following = last.offset + 2 + 12 * int.from_bytes(content[last.offset : last.offset + 2], "little")
    content[following : following + 4] = first.offset.to_bytes(4, "little")
    read_or_refused(shelf / "ring", bytes(content))


def test_decoders_say_nothing(shelf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for content in WHOLE.values():
        for _ in range(12):
            broken = bytearray(content)
            for offset in random.integers(0, len(broken), 3):
                broken[offset] = random.integers(256)
            read_or_refused(shelf / "broken", bytes(broken))
    assert capfd.readouterr() == ("", "")
