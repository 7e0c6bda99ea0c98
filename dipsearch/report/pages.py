"""Genomes and runs as a report shows them, each on a page of its own."""

import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup
from pydantic import ValidationError

from dipsearch.error import UsageError
from dipsearch.frames import iterations
from dipsearch.genome import Genome, parse_genome
from dipsearch.leaderboard import Leaderboard
from dipsearch.report.again import command_of
from dipsearch.report.album import Album
from dipsearch.report.boards import plain
from dipsearch.report.charts import curve
from dipsearch.report.drawing import draw_network
from dipsearch.report.views import Cell, GenomeView, RunView, Table
from dipsearch.run import OK, RunStore, judged_by, key_of, picture_of, read_curve

DRAWN = 60  # genomes of a board whose network is drawn and whose relatives are looked for
PAGES = 400  # runs of a report that have a page of their own
SEARCHED = 10  # genomes of a search's board whose runs may have one
RELATIVES = 6


class Pages:
    """The pages of genomes and runs, each made once. Boards are taken in turn, the best genomes first."""

    def __init__(self, store: RunStore, album: Album, tasks: Iterable[str]) -> None:
        self.store, self.album = store, album
        self.genomes: dict[str, GenomeView] = {}
        self.runs: dict[str, RunView] = {}
        self._left_out = 0
        self._by_subject: dict[str, list[dict[str, Any]]] = {}
        for run in (run for task in tasks for run in store.load(task)[0]):
            self._by_subject.setdefault(judged_by(run), []).append(run)

    def add_runs(self, board: Leaderboard) -> None:
        """Make pages of the runs that a board ranks; of a search, those of the best genomes."""
        instances = set(zip(board.runs["protocol"], board.runs["digest"], board.runs["seed"], strict=True))
        ranked = list(board.table["subject"])
        for subject in ranked if board.purpose != "search" else ranked[:SEARCHED]:
            for run in self._by_subject[subject]:
                key = key_of(run)
                if run["task"] != board.task or (run["protocol"], run["digest"], run["seed"]) not in instances:
                    continue
                if len(self.runs) < PAGES:
                    self.runs.setdefault(key, _run(self.store, self.album, run))
                elif key not in self.runs:
                    self._left_out += 1

    def add_genomes(self, boards: list[Leaderboard]) -> None:
        """Make pages of the genomes of a task's boards; relatives are those of the board with most genomes."""
        families = [_Family(board) for board in sorted(boards, key=lambda board: -len(board.table))]
        for board in boards:
            rows = [row for row in _records(board.table) if row["genome"] is not None]
            for place, row in enumerate(rows):
                if row["subject"] not in self.genomes:
                    family = next(each for each in families if row["subject"] in each.genes) if place < DRAWN else None
                    self.genomes[row["subject"]] = self._genome(row, family)

    def _genome(self, row: dict[str, Any], family: "_Family | None") -> GenomeView:
        """The page of a genome; drawn, and beside its relatives, where it has a family."""
        runs = self._by_subject[row["subject"]]
        genome = None if family is None else _parsed(row["genome"])
        recipe = {"recipe": row["recipe_changes"]} if row["recipe_changes"] else {}
        return GenomeView(
            id=f"genome-{row['subject']}",
            name=row["name"],
            summary=row["summary"],
            facts=_facts(row),
            text=_as_yaml(row["genome"] | recipe),
            drawing=None if genome is None else draw_network(genome),
            relatives=None if family is None else family.relatives(row["subject"]),
            runs=self._runs_of(runs),
            shown=self._shown(runs),
        )

    def _runs_of(self, runs: list[dict[str, Any]]) -> Table:
        rows = []
        order = ("task", "purpose", "image", "repeat")
        for run in sorted(runs, key=lambda run: [str(run[name]) for name in order]):
            link = f"#run-{key_of(run)}" if key_of(run) in self.runs else ""
            told = decibel(run["psnr"]) if run["status"] == OK else run["status"]
            cost = f"{run['seconds']:.1f}" if run["status"] == OK else ""
            rows.append(
                [
                    Cell(picture_of(str(run["image"])), None, link),
                    Cell(f"{run['task']}, {run['purpose']}, {run['preset']}"),
                    Cell(str(run["repeat"]), run["repeat"]),
                    Cell(told, run["psnr"]),
                    Cell(cost, run["seconds"]),
                ]
            )
        return Table(["picture", "made by", "repeat", "PSNR", "seconds"], [False, False, True, True, True], rows)

    def _shown(self, runs: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
        shown = []
        for run in runs:
            view = self.runs.get(key_of(run))
            if view is not None and "restored" in view.pictures:
                told = f", {decibel(run['psnr'])} dB" if run["psnr"] is not None else ""
                words = picture_of(str(run["image"])) + told
                shown.append((view.pictures["restored"], words, f"#{view.id}"))
        return shown[:12]

    def notes(self) -> list[str]:
        """What was left out."""
        notes = []
        if self._left_out:
            notes.append(
                f"{self._left_out} runs have no page of their own: a report has at most {PAGES}, best genomes first."
            )
        if self.album.refused:
            notes.append(f"{self.album.refused} pictures were left out to keep this file small (--pictures).")
        return notes


def _as_yaml(data: dict[str, Any]) -> str:
    """Data as YAML, by libyaml where there is one: thousands of genomes take seconds without."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text


def _parsed(genome: dict[str, Any]) -> Genome | None:
    try:
        return parse_genome(genome)
    except ValidationError:
        return None  # of another version


def _facts(row: dict[str, Any]) -> dict[str, str]:
    told = {"parameters": f"{row['parameters']:,.0f}"}
    if not pd.isna(row["gflop"]):  # of fits that failed nothing is known
        told["GFLOP an iteration"] = f"{row['gflop']:.2f}"
    if row["found_on"]:
        told["found on"] = row["found_on"]
    return told


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Genes by name, nested ones by path; values that can be compared."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = value

    walk("", row["genome"])
    walk("recipe", row["recipe_changes"] or {})
    return flat


class _Family:
    """The genomes of a board, to be compared with one another."""

    def __init__(self, board: Leaderboard) -> None:
        self.rows = {row["subject"]: row for row in _records(board.table) if row["genome"] is not None}
        self.genes = {subject: _flat(row) for subject, row in self.rows.items()}
        self._items = {
            subject: frozenset((name, str(gene)) for name, gene in genes.items())
            for subject, genes in self.genes.items()
        }
        # others are judged on fewer pictures, or by a held-out number alone
        self.scored = {
            subject for subject, row in self.rows.items() if not (pd.isna(row["rank"]) or pd.isna(row["psnr"]))
        }

    def relatives(self, subject: str) -> Table | None:
        """The genomes with the fewest other genes: what changes towards each, and what that brings."""
        mine, items = self.genes[subject], self._items
        others = self.scored - {subject} if subject in self.scored else ()
        near = [(len(items[subject] ^ items[other]), -self.rows[other]["psnr"], other) for other in others]
        rows = []
        for _, _, other in heapq.nsmallest(RELATIVES, near):
            genes, gain = self.genes[other], self.rows[other]["psnr"] - self.rows[subject]["psnr"]
            changed = sorted({name for name, _ in items[subject] ^ items[other]})
            words = "; ".join(f"{name}: {mine.get(name, '–')} → {genes.get(name, '–')}" for name in changed)
            named = Cell(self.rows[other]["name"], None, f"#genome-{other}")
            rows.append([named, Cell(words), Cell(f"{gain:+.2f}", plain(gain))])
        return Table(["relative", "what changes towards it", "PSNR, dB"], [False, False, True], rows) if rows else None


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.to_dict("records")  # type: ignore[return-value]


def _run(store: RunStore, album: Album, run: dict[str, Any]) -> RunView:
    path = store.path_of(run["task"], run["image"], key_of(run))
    kept = {**store.pictures_of(run), "restored": path.with_suffix(".png")}
    pictures = {
        kind: key for kind in ("observation", "restored", "truth") if (key := album.add(kept[kind])) is not None
    }
    strip = album.add(path.with_suffix(".frames.png")) if path.with_suffix(".frames.png").exists() else None
    lacking = [kind for kind in ("observation", "restored", "truth") if kind not in pictures]
    judged = {"PSNR": decibel(run["psnr"]), "SSIM": f"{run['ssim']:.3f}" if run["ssim"] is not None else ""}
    last = "at the end of the budget" if run["stop_reason"] == "budget" else "at the last iteration"
    judged |= {"held-out PSNR": decibel(run["held_out"]), f"PSNR {last}": decibel(run["final_psnr"])}
    judged |= {
        "chosen iteration": str(run["chosen"] or ""),
        "iterations": str(run["iterations"] or ""),
        "stopped by": run["stop_reason"],
    }
    oracle = {"PSNR": decibel(run["oracle_psnr"]), "at iteration": str(run["oracle_iteration"] or "")}
    machine = run["machine"] or {}
    facts = {
        "task": run["task"], "made by": f"{run['purpose']}, preset {run['preset']}", "status": run["status"],
        "reason": run["reason"], "seconds": f"{run['seconds']:.1f}", "parameters": f"{run['parameters']:,}",
        "GFLOP an iteration": f"{run['gflop']:.2f}", "device": run["device"], "precision": run["precision"],
        "seed of the study": str(run["study_seed"]), "seed of this instance": str(run["seed"]), "made": run["created"],
        "protocol": run["protocol"], **{name: str(value) for name, value in machine.items()},
    }  # fmt: skip
    return RunView(
        f"run-{key_of(run)}",
        f"{run['name']} on {picture_of(str(run['image']))}, repeat {run['repeat']}",
        f"#genome-{judged_by(run)}" if run["genome_key"] else "",
        pictures,
        None if strip is None else (strip, [str(at) for at in iterations(int(run["iterations"]))]),
        _curves(path, run),
        {name: word for name, word in judged.items() if word},
        {name: word for name, word in oracle.items() if word},
        {name: word for name, word in facts.items() if word},
        _as_yaml(run["setting"]),
        command_of(run, store.root.parent),
        f"not kept, or left out of this report: {', '.join(lacking)}" if lacking and run["genome_key"] else "",
    )


def _curves(path: Path, run: dict[str, Any]) -> list[Markup]:
    try:
        drawn = read_curve(path)
        at = drawn["iteration"]
        marks: dict[str, tuple[float, float | None]] = {}
        if run["chosen"]:
            marks["chosen by the stopping rule"] = (run["chosen"], run["psnr"])
        scores = {"a": (at, drawn["psnr"]), "b": (at, drawn["raw"])}
        best = {"oracle": (run["oracle_iteration"], run["oracle_psnr"])} if run["oracle_iteration"] else {}
        made = [
            curve(
                scores, marks | best, "PSNR of the averaged output and of the output itself over iterations", log=False
            ),
            curve({"c": (at, drawn["loss"])}, marks, "loss over iterations", log=True),
        ]
        if "statistic" in drawn:
            recipe = run["setting"]["recipe"] | (run["recipe_changes"] or {})
            told = f"what the stopping rule {recipe['stop']} watches over iterations"
            made.append(curve({"d": (at, drawn["statistic"])}, marks, told, log=True))
        return [each for each in made if each is not None]
    except (UsageError, KeyError, TypeError, ValueError):
        return []


def decibel(value: float | None) -> str:
    """A number of dB as a word; none for none."""
    return "" if value is None else f"{value:.2f}"
