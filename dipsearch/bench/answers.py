"""What DIPBench says: which cheap number ranks genomes as a whole fit does. Rank correlations are Kendall's tau-b."""

import pandas as pd

from dipsearch.bench.table import SCORE, smallest
from dipsearch.metric import from_mse
from dipsearch.run import OK

SHORT, HELD = "honest_", "held_out_"


def correlations(table: pd.DataFrame, *, origin: str | None = None, truth: str = "psnr") -> pd.DataFrame:
    """Kendall's tau of each cheap number against `truth`, over the genomes of an `origin` (None: all).

    Held-out errors count in dB, as in a search.

    Args:
        table: of one task; the first seed and the smaller size count, except for the last rows.
        truth: the column to be predicted: the honest `psnr`.

    Returns:
        A row for each number: its `kind`, mean, least and greatest tau over pictures (`mean`, `least`, `greatest`),
        tau of its means over pictures (`of means`), and the number of genomes. The kind `ceiling` is the same fit
        with another seed: what no predictor can beat by much. The kind `small size` is the fit of the small picture as
        a predictor of that of the larger one.
    """
    table = table[(table["status"] == OK) & (True if origin is None else table["origin"] == origin)]
    table = table.assign(key=table["key"].astype(str), image=table["image"].astype(str))
    small, first = table.index.isin(smallest(table).index), table["repeat"] == 0
    once, again, larger = table[small & first], table[small & ~first], table[~small & first]
    rows = []
    for kind, column in _numbers(once):
        number = once[column].map(from_mse, na_action="ignore") if column.startswith(HELD.rstrip("_")) else once[column]
        rows.append({"kind": kind, "number": column, **_taus(once, once.assign(number=number), truth)})
    if not again.empty:
        other = _taus(once, again.assign(number=again[truth]), truth)
        rows.append({"kind": "ceiling", "number": "another seed", **other})
    if not larger.empty:
        fine = _taus(larger, once.assign(number=once[truth]), truth)
        rows.append({"kind": "small size", "number": f"{once['size'].max()} px for {larger['size'].max()}", **fine})
    return pd.DataFrame(rows)


def _numbers(table: pd.DataFrame) -> list[tuple[str, str]]:
    numbers = [("null proxy", name) for name in ("parameters", "gflop", "seconds")]
    numbers += [("zero-cost score", name) for name in map(str, table) if name.startswith(SCORE)]
    numbers += [("short fit", name) for name in map(str, table) if name.startswith(SHORT)]
    numbers += [("short fit, held-out", name) for name in map(str, table) if name.startswith(HELD)]
    return [*numbers, ("held-out error", "held_out"), ("fixed budget", "final_psnr"), ("oracle", "oracle_psnr")]


def _taus(table: pd.DataFrame, numbers: pd.DataFrame, truth: str) -> dict[str, float]:
    """Tau over the genomes that both have, picture by picture and of means over pictures."""
    wide = [
        each.pivot(index="key", columns="image", values=column)
        for each, column in ((table, truth), (numbers, "number"))
    ]
    true, cheap = wide[0].align(wide[1], join="inner")
    each = [_tau(true[image], cheap[image]) for image in true]
    whole = true.notna().all(axis=1) & cheap.notna().all(axis=1)
    means = _tau(true[whole].mean(axis=1), cheap[whole].mean(axis=1))
    return {
        "mean": sum(each) / len(each),
        "least": min(each),
        "greatest": max(each),
        "of means": means,
        "genomes": int(whole.sum()),
    }


def _tau(a: pd.Series, b: pd.Series) -> float:
    """Kendall's tau-b; NaN below three pairs, of which it says nothing."""
    both = a.notna() & b.notna()
    return float(a[both].corr(b[both], method="kendall")) if both.sum() > 2 else float("nan")
