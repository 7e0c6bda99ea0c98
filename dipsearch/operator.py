"""What turned the clean picture into the observation: y = A(x) + noise.

Operators are modules without learned weights, differentiable, on [0, 1] pictures in NCHW. Any callable
A(x) may take their place in `fit`, so a deepinv physics works unchanged. Noise is a separate part.

A task names an operator with its options; `OPERATORS` maps the name to those options, which draw the
operator for a picture.
"""

import io
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from dipsearch.error import TooLittle, UsageError
from dipsearch.genome import Part
from dipsearch.image import Cut, digest, read_mask, to_uint8, wholly_known
from dipsearch.network.resampling import Lanczos2


def restored_size(y: Tensor, operator: Callable[[Tensor], Tensor] | None) -> tuple[int, int]:
    """(height, width) of the picture that an operator made y of: y's, times the operator's `factor` if it has one."""
    factor = int(getattr(operator, "factor", 1))
    return y.shape[-2] * factor, y.shape[-1] * factor


def noiseless(operator: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A of a physics of deepinv, whose own call adds noise, that may not even have a gradient; others as they are."""
    alone = getattr(operator, "A", None)
    return alone if hasattr(operator, "noise_model") and callable(alone) else operator


class Identity(nn.Module):
    """A(x) = x: denoising, and blind restoration."""

    def forward(self, x: Tensor) -> Tensor:
        """NCHW, unchanged."""
        return x


class Mask(nn.Module):
    """A(x) = x * known: the pixels outside `known` are lost. A loss over A(x) is a mean over all pixels.

    Args:
        known: 1 where a pixel is known and 0 where it is a hole, (1, 1 or C, H, W).
    """

    known: Tensor

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        if not isinstance(known, Tensor):
            raise UsageError(f"a mask is a tensor (1, 1 or C, H, W), not {type(known).__name__}; see torch.as_tensor")
        self.register_buffer("known", known.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW of the mask's height and width to the same, with zeros in the holes."""
        return x * self.known.to(x.dtype)

    def observed(self, y: Tensor) -> Tensor:
        """y, (1, C, H, W), with zeros in the holes, whatever stands there. UsageError where the mask says nothing of
        it."""
        if self.known.ndim != 4 or self.known.shape[0] != 1 or self.known.shape[1] not in (1, y.shape[1]):
            raise UsageError(f"a mask is (1, 1 or {y.shape[1]}, H, W), got {tuple(self.known.shape)}")
        if self.known.shape[-2:] != y.shape[-2:]:
            sizes = " and ".join(f"{shape[-1]}x{shape[-2]}" for shape in (self.known.shape, y.shape))
            raise UsageError(f"the mask and the picture differ in size: {sizes}")
        if not ((self.known == 0) | (self.known == 1)).all():
            raise UsageError("a mask is 1 where a pixel is known, and 0 where it is a hole")
        if not self.known.any():
            raise UsageError("the mask leaves no pixel known")
        return self.filled(y, torch.zeros((), dtype=y.dtype, device=y.device))

    def filled(self, y: Tensor, x: Tensor) -> Tensor:
        """y where it is known, and x in the holes."""
        return torch.where(self.known.to(y.device).bool(), y, x)


class Downsample(Lanczos2):
    """A(x): the paper's Lanczos2 downsampling by `factor`, of sides that it divides.

    Source: Ulyanov et al., super-resolution; the kernel is `lanczos2_kernel`.
    """


def bernoulli_mask(shape: tuple[int, ...], missing: float, generator: torch.Generator) -> Tensor:
    """Draw which pixels are known: each is missing with probability `missing`, in [0, 1).

    Args:
        shape: (1, 1, H, W) draws once for all channels of a pixel; (1, C, H, W) each channel on its own.

    Returns:
        A float tensor of that shape, 1 = known.
    """
    return (torch.rand(shape, generator=generator) >= missing).float()


class Options(Part):
    """What all operators' options share."""

    @property
    def multiple_of(self) -> int:
        """What the sides of the picture have to be a multiple of."""
        return 1

    def identity(self) -> dict[str, Any]:
        """All options, as plain data that is equal only for equal operators."""
        return self.model_dump(mode="json")

    def observe(self, operator: nn.Module, x: Tensor) -> Tensor:
        """The clean observation A(x)."""
        return operator(x)  # type: ignore[no-any-return]


class IdentityOptions(Options):
    """No options."""

    def draw(self, x: Tensor, generator: torch.Generator, cut: Cut | None = None) -> nn.Module:
        """The operator for a picture."""
        return Identity()


class MaskOptions(Options):
    """Either a random mask, or a `file`: a picture that is white where pixels are missing."""

    missing: float = Field(0.5, ge=0, lt=1, description="probability that a pixel is a hole")
    per_channel: bool = Field(False, description="draw each channel on its own")
    block: int = Field(1, ge=1, le=512, description="pixels a side of the squares that are drawn")
    file: str | None = Field(None, description="a picture, black and white")
    white: Literal["hole", "known"] = Field("hole", description="what white means in the file")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.file is not None and self.model_fields_set & {"missing", "per_channel", "block"}:
            raise ValueError("a mask is read from a file or drawn (missing, per_channel, block), not both")
        return self

    def identity(self) -> dict[str, Any]:
        """With what a file says is known in place of its path."""
        plain = {name: value for name, value in super().identity().items() if name not in ("white", "block")}
        if self.block > 1:
            plain["block"] = self.block
        return plain | ({} if self.file is None else {"file": digest(self._read())})

    def _read(self, size: tuple[int, int] | None = None) -> Tensor:
        known = read_mask(str(self.file), size)
        return known if self.white == "hole" else 1 - known

    def draw(self, x: Tensor, generator: torch.Generator, cut: Cut | None = None) -> Mask:
        """Draw or read which pixels are known.

        A file is as large as the whole picture, and cut as `x` was: a shrunk pixel is known where all its pixels were.
        UsageError where its size differs, TooLittle where nothing is known.
        """
        height, width = x.shape[-2:]
        if self.file is None:
            channels = x.shape[1] if self.per_channel else 1
            squares = (1, channels, -(-height // self.block), -(-width // self.block))
            known = bernoulli_mask(squares, self.missing, generator)
            if self.block > 1:
                known = F.interpolate(known, scale_factor=self.block, mode="nearest")[..., :height, :width]
            return Mask(known.contiguous())
        cut = cut or Cut((height, width), (height, width))
        known = wholly_known(cut(self._read(cut.whole)))
        if not known.any():
            where = f", within the {width}x{height} pixels that are used" if cut.size != cut.whole else ""
            raise TooLittle(f"{self.file}: the mask leaves no pixel known (white = {self.white}){where}")
        return Mask(known)


class DownsampleOptions(Options):
    """`low_resolution: operator` makes the observation with A itself; the others with a kernel of Pillow's, on 8-bit
    pixels, so that A(truth) is not y: `bicubic`, as the benchmarks of super-resolution do and the paper's tables did
    (their bicubic rows come out so, within 0.05 dB), `lanczos`, of three lobes, as its released notebook does."""

    factor: Literal[2, 4, 8] = 4
    low_resolution: Literal["operator", "bicubic", "lanczos"] = "operator"

    @property
    def multiple_of(self) -> int:
        """Sides of the picture have to be a multiple of the factor."""
        return self.factor

    def draw(self, x: Tensor, generator: torch.Generator, cut: Cut | None = None) -> Downsample:
        """The operator for a picture."""
        return Downsample(self.factor)

    def observe(self, operator: nn.Module, x: Tensor) -> Tensor:
        """The low-resolution picture."""
        if self.low_resolution == "operator":
            return super().observe(operator, x)
        picture = Image.fromarray(to_uint8(x))
        kernel = Image.Resampling[self.low_resolution.upper()]
        return _tensor(picture.resize((picture.width // self.factor, picture.height // self.factor), kernel))


def _tensor(picture: Image.Image) -> Tensor:
    """8-bit grey or RGB to (1, C, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)
    return pixels[None, None] if pixels.ndim == 2 else pixels.movedim(2, 0)[None].contiguous()


OPERATORS: dict[str, type[Any]] = {
    "identity": IdentityOptions,
    "mask": MaskOptions,
    "downsample": DownsampleOptions,
}


class NoiseOptions(Part):
    """`sigma` on the scale of 0…255, clipped to [0, 1] as in the paper, or not; `quality` of JPEG."""

    sigma: float = Field(0, ge=0, le=255)
    clip: bool = True
    quality: int | None = Field(None, ge=1, le=95)


def gaussian(clean: Tensor, generator: torch.Generator, options: NoiseOptions) -> Tensor:
    """Add white Gaussian noise."""
    noisy = clean + torch.randn(clean.shape, generator=generator) * (options.sigma / 255)
    return noisy.clamp(0, 1) if options.clip else noisy


def jpeg(clean: Tensor, generator: torch.Generator, options: NoiseOptions) -> Tensor:
    """Compress as JPEG, 8 bits a sample; UsageError without a quality."""
    if options.quality is None:
        raise UsageError("noise jpeg needs a quality, from 1 to 95")
    file = io.BytesIO()
    Image.fromarray(to_uint8(clean)).save(file, format="JPEG", quality=options.quality)
    return _tensor(Image.open(file))


def none(clean: Tensor, generator: torch.Generator, options: NoiseOptions) -> Tensor:
    """No noise."""
    return clean


NOISES: dict[str, Callable[[Tensor, torch.Generator, NoiseOptions], Tensor]] = {
    "none": none,
    "gaussian": gaussian,
    "jpeg": jpeg,
}
