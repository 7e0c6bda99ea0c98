"""What the benchmarks share: rows kept in a file as they come, and tables with their machine and command."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from dipsearch.run import environment

FOLDER = Path("results/benchmarks")


def load(path: Path) -> list[dict[str, Any]]:
    """The stored rows."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, with the machine that made it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine = environment() | {"device": device, "threads": torch.get_num_threads()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | {"machine": machine}) + "\n")


def write(path: Path, title: str, command: str, notes: list[str], table: pd.DataFrame, rows: list[dict]) -> None:
    """Write a Markdown table and print it."""
    words = "{processor}, {cores} cores, {threads} threads, {device}, torch {torch}, Python {python}"
    machines = sorted({words.format(**row["machine"]) for row in rows})
    lines = [f"# {title}", "", f"Made by `{command}`.", "", *(f"Machine: {machine}." for machine in machines), ""]
    lines += [*notes, "", markdown(table)]
    text = "\n".join(lines) + "\n"
    path.write_text(text, encoding="utf-8")
    print(text)


def markdown(table: pd.DataFrame) -> str:
    """A pandas table as Markdown; values are text already."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
