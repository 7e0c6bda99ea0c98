"""What genomes are made of: choices by name, upsampling cells, inputs."""

from collections.abc import Container
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from dipsearch.error import unknown
from dipsearch.network.blocks import ACTIVATIONS, NORMS, PADDINGS
from dipsearch.network.cell import CONVOLUTIONS, GROUPS, PRIMITIVES
from dipsearch.network.resampling import DOWNSAMPLERS, UPSAMPLERS


def _named(kind: str, registry: Container[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in registry:
            raise ValueError(unknown(kind, name, registry))  # type: ignore[arg-type]
        return name

    return AfterValidator(check)


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"a kernel must be odd, got {kernel}")
    return kernel


Activation = Annotated[str, _named("activation", ACTIVATIONS)]
Norm = Annotated[str, _named("norm", NORMS)]
Padding = Annotated[str, _named("padding", PADDINGS)]
Downsampler = Annotated[str, _named("downsampler", DOWNSAMPLERS)]
Channels = Annotated[int, Field(ge=1, le=4096)]
SkipChannels = Annotated[int, Field(ge=0, le=4096)]
Kernel = Annotated[int, Field(ge=1, le=15), AfterValidator(_odd)]
MOST_LEVELS = 8
Depth = Annotated[int, Field(strict=True, ge=1, le=MOST_LEVELS)]


class Part(BaseModel):
    """Frozen data in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


INTERPOLATIONS = ("bilinear", "bicubic", "nearest")  # upsamplers without weights, which are primitives as well


class Cell(Part):
    """An upsampler taken apart (NAS-DIP): a primitive that doubles a map, and a convolution after it.

    Both have the same kernel, and the activation follows either. With `pixel-shuffle-last`, the convolution comes
    first. Every cell has to keep the number of channels: what cannot at any number is refused here, what cannot
    at some numbers by the genome that has the cell (`divisor`).
    """

    primitive: Annotated[str, _named("primitive", PRIMITIVES)]
    convolution: Annotated[str, _named("convolution", CONVOLUTIONS)] = "none"
    kernel: Kernel = 3
    activation: Activation = "none"

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if self.primitive == "transposed" and self.convolution != "none":
            raise ValueError(f"'transposed' convolves already: no convolution may follow it, got {self.convolution!r}")
        if self.primitive.startswith("pixel-shuffle") and self.convolution in ("none", "depthwise"):
            fit = ", ".join(name for name in CONVOLUTIONS if name not in ("none", "depthwise"))
            raise ValueError(
                f"{self.primitive!r} takes a convolution that changes the number of channels, not "
                f"{self.convolution!r}; choose from: {fit}"
            )
        return self

    @property
    def divisor(self) -> int:
        """What has to divide the number of channels."""
        shuffled = GROUPS if self.primitive == "pixel-shuffle" else 1
        return shuffled * (GROUPS if self.convolution == "split-sum" else 1)

    @property
    def is_interpolation(self) -> bool:
        """Whether nothing in it is learned, and no kernel chosen."""
        return self.primitive in INTERPOLATIONS and self.convolution == "none"

    def canonical(self) -> "Cell | str":
        """The same cell without a kernel that cannot matter; a name where that says all."""
        if not self.is_interpolation:
            return self
        return self.primitive if self.activation == "none" else self.model_copy(update={"kernel": 3})

    def __str__(self) -> str:
        words = [self.primitive, self.convolution, f"{self.kernel}x{self.kernel}", self.activation]
        return " ".join(word for word in words[: 1 if self.is_interpolation else 3] + words[3:] if word != "none")


# One upsampler: a name, or a cell. Defaults never enter a key, so that cells do not change the keys of genomes without.
Upsampler = Annotated[
    Annotated[str, _named("upsampler", UPSAMPLERS), Tag("name")] | Annotated[Cell, Tag("cell")],
    Discriminator(lambda value: "cell" if isinstance(value, dict | Cell) else "name"),
]


def canonical_upsampler(upsampler: str | Cell) -> str | Cell:
    """The shortest way of writing an upsampler."""
    return upsampler.canonical() if isinstance(upsampler, Cell) else upsampler


def check_divisor(upsampler: str | Cell, channels: int) -> None:
    """ValueError where a cell cannot keep so many channels."""
    if isinstance(upsampler, Cell) and channels % upsampler.divisor:
        raise ValueError(f"upsample: {upsampler} needs a multiple of {upsampler.divisor} channels, got {channels}")


class NoiseInput(Part):
    """z is drawn once from U(0, `scale`), with `channels` channels (the paper's input)."""

    kind: Literal["noise"] = "noise"
    channels: Channels = 32
    scale: float = Field(0.1, gt=0, le=10)


class MeshgridInput(Part):
    """z holds the column and the row coordinate of each pixel, in [0, 1]."""

    kind: Literal["meshgrid"] = "meshgrid"

    @property
    def channels(self) -> int:
        """Two: x and y."""
        return 2


class FourierInput(Part):
    """z holds sin and cos of both coordinates at `frequencies` log-spaced frequencies, from 1/2 to 128 cycles
    per picture (positional encoding; Shabtay et al., *PIP*, 2022)."""

    kind: Literal["fourier"] = "fourier"
    frequencies: int = Field(8, ge=1, le=16)

    @property
    def channels(self) -> int:
        """Four for each frequency."""
        return 4 * self.frequencies


class GuideInput(Part):
    """z is a picture of the same scene, which a fit is given as its `guide` (the paper's flash/no-flash)."""

    kind: Literal["guide"] = "guide"
    channels: Channels = 3


Input = Annotated[NoiseInput | MeshgridInput | FourierInput | GuideInput, Field(discriminator="kind")]
