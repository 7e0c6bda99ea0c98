"""Synthetic runs for reports: no fit, known numbers."""

import numpy as np
import torch

from dipsearch.fitting.loop import Fit, Oracle
from dipsearch.frames import frame, iterations
from dipsearch.genome import Hourglass
from dipsearch.run import Run, RunStore

SETTING = {
    "operator": {"name": "identity"},
    "noise": {"name": "gaussian", "sigma": 25},
    "metric": "rgb",
    "pictures": {"shrink": 1, "size": 32, "multiple_of": 1},
    "recipe": {"iterations": 100, "stop": "es-wmv", "ensemble": 1},
}


def genome_of(number, **genes):
    """A genome for each number below 4096."""
    depth, rest = number % 4 + 1, number // 4
    return Hourglass(depth=depth, channels_down=8 + rest % 32, channels_up=8 + rest // 32, channels_skip=0, **genes)


def run_of(genome, *, picture="one", repeat=0, psnr=25.0, task="toy", purpose="rerun", name=None, **changes):
    """A run with numbers as a fit has them; `genome` None is a baseline, `psnr` None a fit that failed."""
    fitted = genome is not None and psnr is not None
    fields = {
        "task": task, "purpose": purpose, "preset": "quick", "protocol": f"protocol-{purpose}", "setting": SETTING,
        "metric": "rgb", "image": f"skimage:{picture}", "digest": f"digest-{picture}", "repeat": repeat,
        "study_seed": 0, "seed": repeat, "name": name or (genome.key()[:8] if genome else "non-local-means"),
        "genome_key": genome.key() if genome else None, "genome": genome.data() if genome else None,
        "summary": genome.summary() if genome else "(baseline)", "psnr": psnr, "ssim": 0.8 if psnr else None,
        "oracle_psnr": psnr + 0.5 if fitted else None, "oracle_iteration": 60 if fitted else None,
        "iterations": 100 if fitted else 0, "chosen": 70 if fitted else 0, "stop_reason": "es-wmv" if fitted else "",
        "seconds": 2.0 + psnr % 3 if fitted else 0.1, "parameters": 1000, "gflop": 0.1 + psnr % 2 if fitted else 0.0,
        "precision": "float32", "machine": {"processor": "a test", "cores": 2, "torch": "2"},
        "final_psnr": psnr - 0.1 if fitted else None, "raw_psnr": psnr - 1 if fitted else None,
    }  # fmt: skip
    return Run(**(fields | changes))


def fit_of(run, side=32):
    """A fit whose curve rises to the run's PSNR."""
    at = list(range(10, 101, 10))
    rising = [run.psnr - 5 + 0.05 * each for each in at]
    curve = {"iteration": at, "loss": [1 / each for each in at], "psnr": rising, "raw": [each - 1 for each in rising]}
    curve["statistic"] = [float("inf")] * 3 + [1 / each for each in at[3:]]
    return Fit(
        x=smooth(side, seed=len(run.name)), chosen=70, iterations=100, stop_reason="es-wmv", psnr=run.psnr,
        oracle=Oracle(run.psnr + 0.5, 60), curve=curve, seconds=2.0, rollbacks=0, non_finite=0, device="cpu",
        precision="float32",
    )  # fmt: skip


def smooth(side, seed=0):
    """A picture, (1, 3, side, side)."""
    ramp = torch.linspace(0, 1, side)
    planes = [ramp.expand(side, side), ramp[:, None].expand(side, side), ((ramp + seed % 7 / 7) % 1).expand(side, side)]
    return torch.stack(planes)[None]


def save(store, run, side=32):
    """A run in a store, with its pictures."""
    seen = [frame(smooth(side)) for _ in iterations(100)]
    if run.genome_key is None:
        store.save(run, x=smooth(side))
    else:
        store.save(run, fit_of(run, side), seen=seen)
    noise = torch.from_numpy(np.random.default_rng(run.seed).normal(0, 0.1, (1, 3, side, side))).float()
    store.keep_pictures(run, {"observation": (smooth(side) + noise).clamp(0, 1), "truth": smooth(side)})


def folder_of_runs(out, *, genomes=3, pictures=("one", "two"), repeats=2, names=()):
    """A folder with re-runs of some genomes, the paper's network and a baseline."""
    store = RunStore(out / "runs")
    judged = [(genome_of(number), None) for number in range(genomes)]
    judged = [(genome, names[place] if place < len(names) else None) for place, (genome, _) in enumerate(judged)]
    for place, (genome, name) in enumerate([*judged, (Hourglass(), "dip-denoise"), (None, None)]):
        for picture in pictures:
            for repeat in range(repeats):
                psnr = 25 + place + 0.1 * repeat + len(picture) / 100
                save(store, run_of(genome, picture=picture, repeat=repeat, psnr=psnr, name=name))
    return store
