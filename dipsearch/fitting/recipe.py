"""How a fit is run."""

import math
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from dipsearch.error import unknown
from dipsearch.fitting.stopping import STOPPERS
from dipsearch.genome import Part
from dipsearch.network.build import PRECISIONS

AUTO = "auto"


def _known_stopper(name: str) -> str:
    if name not in STOPPERS:
        raise ValueError(unknown("stopping rule", name, STOPPERS))
    return name


def _known_precision(name: str) -> str:
    if name not in (choices := [AUTO, *PRECISIONS]):
        raise ValueError(unknown("precision", name, choices))
    return name


class Recipe(Part):
    """Settings of the inner loop. The defaults are the paper's for denoising."""

    iterations: int = Field(1800, ge=1, le=1_000_000)
    learning_rate: float = Field(0.01, gt=0, le=10)
    input_noise: float = Field(1 / 30, ge=0, le=100, description="sd of the noise added to z at every step")
    averaging: float = Field(0.99, ge=0, lt=1, description="decay of the running mean of the output; 0: none")
    ensemble: int = Field(1, ge=1, le=64, description="fits from different seeds, whose answers are averaged")
    stop: Annotated[str, AfterValidator(_known_stopper)] = "fixed"
    window: int = Field(100, ge=2, le=10_000, description="es-wmv: outputs in the window")
    patience: int = Field(1000, ge=1, description="es-wmv, es-emv, held-out: iterations without a new minimum")
    warm_up: int = Field(0, ge=0, description="es-wmv, es-emv, held-out: iterations before the first minimum counts")
    held_out: float = Field(0.05, gt=0, lt=1, description="held-out: share of the observed pixels")
    sigma: float | None = Field(None, gt=0, le=255, description="discrepancy: the noise level, on the scale of 0…255")
    weight_noise: float = Field(0, ge=0, le=100, description="SGLD: sd after each step, in units of the learning rate")
    weight_decay: float = Field(0, ge=0, le=1)
    burn_in: int = Field(7000, ge=0, description="SGLD: iterations before the first sample")
    thinning: int = Field(50, ge=1, description="SGLD: iterations between samples")
    precision: Annotated[str, AfterValidator(_known_precision)] = "auto"
    rollback: float = Field(5.0, gt=0, description="dB; a drop of the fit beyond it restores the last snapshot")
    time_limit: float | None = Field(None, gt=0, description="seconds")

    @property
    def fall(self) -> float:
        """dB of the fit to y: a drop beyond it restores the last snapshot. No drop does where nothing is random, since
        the same steps would lead there again."""
        return self.rollback if self.input_noise or self.weight_noise else math.inf

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.stop == "discrepancy" and self.sigma is None:
            raise ValueError("stop: discrepancy needs the noise level: sigma, on the scale of 0…255")
        if self.stop != "discrepancy" and self.sigma is not None:
            raise ValueError(f"sigma: only the rule discrepancy is told the noise level, not {self.stop}")
        if self.weight_noise and self.stop != "fixed":
            raise ValueError(f"weight_noise: samples need a fixed budget, not stop: {self.stop}")
        if self.weight_noise and self.burn_in + self.thinning > self.iterations:
            raise ValueError(
                f"weight_noise: no output would be sampled in {self.iterations} iterations "
                f"with burn_in {self.burn_in} and thinning {self.thinning}"
            )
        return self
