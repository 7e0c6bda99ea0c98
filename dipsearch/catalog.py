"""Finds and reads YAML: built-in (inside the wheel, an editable install, a checkout) or the user's own.

A name is looked up among the built-in files; anything that ends in .yaml or .yml, or contains a path
separator, is a path. Nothing here knows what a file means, and nothing here imports torch.
"""

import copy
import functools
import os
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from dipsearch.error import UsageError, unknown

LONGEST_FILE = 256 * 1024  # bytes; the longest built-in file has a few thousand
LONGEST_NUMBER = 64  # bits
Parsed = TypeVar("Parsed")
Name = str | os.PathLike[str]  # of a built-in file, or the path of one

# kind -> where its built-in files stand in a checkout, relative to the root; in a wheel: dipsearch/data/KIND
FOLDERS = {
    "search_spaces": ("search_spaces",),
    "tasks": ("tasks",),
    "genomes": ("dipsearch/genomes", "results/genomes"),
    "datasets": ("dipsearch/datasets",),
    "tables": ("dipsearch/tables",),
}
NOUNS = {
    "search_spaces": "space", "tasks": "task", "genomes": "genome", "datasets": "data set", "tables": "table",
}  # fmt: skip

MADE_BY = {"genomes": " (dipsearch export genome writes one that was found)"}


def folders(kind: str) -> list[Traversable]:
    """The folders that hold the built-in files of a kind, best first."""
    packaged = files("dipsearch") / "data" / kind
    root = Path(__file__).resolve().parent.parent
    return [packaged] if packaged.is_dir() else [root / folder for folder in FOLDERS[kind]]


def names(kind: str) -> dict[str, Traversable]:
    """Every built-in file of a kind, by name, sorted."""
    found: dict[str, Traversable] = {}
    for folder in reversed(folders(kind)):
        if folder.is_dir():
            found |= {
                entry.name.removesuffix(".yaml"): entry for entry in folder.iterdir() if entry.name.endswith(".yaml")
            }
    return dict(sorted(found.items()))


def described(kind: str) -> dict[str, str]:
    """What every built-in file of a kind says that it is about, by name, sorted."""
    return {name: str(read_yaml(file).get("about", "")) for name, file in names(kind).items()}


def locate(kind: str, name: Name) -> Traversable:
    """The file behind a name or path; UsageError names the choices."""
    name = os.fspath(name)
    if os.sep in name or "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    found = names(kind)
    if name not in found:
        raise UsageError(unknown(NOUNS[kind], name, found) + ", or give a path to a .yaml file" + MADE_BY.get(kind, ""))
    return found[name]


def load(kind: str, name: Name, parse: Callable[[Any], Parsed]) -> Parsed:
    """Read the file behind a name or path and parse it; an error is one line that names file, line and key."""
    file = locate(kind, name)
    data = read_yaml(file)
    try:
        return parse(data)
    except ValidationError as error:
        key, _ = _problem(error.errors(include_url=False)[0])
        raise UsageError(f"{file}, line {_line_of(file, key)}: {describe(error)}") from None


def load_named(kind: str, name: Name, parse: Callable[[Any], Parsed]) -> Parsed:
    """As `load`, for what is called as its file is: the parser is given that name as `name`."""
    file = locate(kind, name)

    def parse_with_name(data: Any) -> Parsed:
        if isinstance(data, dict) and "name" in data:
            line = _line_of(file, ["name"])
            raise UsageError(f"{file}, line {line}: name: it is called as its file is; remove this key")
        return parse(data | {"name": stem(kind, name)} if isinstance(data, dict) else data)

    return load(kind, name, parse_with_name)


def stem(kind: str, name: Name) -> str:
    """The name of the file behind a name or path, without its extension."""
    return locate(kind, name).name.removesuffix(".yaml").removesuffix(".yml")


def validate(where: str, parse: Callable[[Any], Parsed], data: Any) -> Parsed:
    """Parse plain data with a pydantic validator; UsageError on one line."""
    try:
        return parse(data)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """The problems that pydantic found, on one line: `key: message`, at most three of them."""
    problems = []
    for item in error.errors(include_url=False):
        key, message = _problem(item)
        problems.append(f"{'.'.join(map(str, key)) or '(top level)'}: {message}")
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return " ".join(("; ".join(problems[:3]) + more).split())


def _problem(item: Any) -> tuple[list[str | int], str]:
    """The key and the message of one problem. A validator of the whole names the key first in its message."""
    key, message = list(item["loc"]), item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and (named := re.match(r"([\w-]+(?:\.[\w-]+)*): ", message)):
        return [*key, *named[1].split(".")], message[named.end() :]
    if item["type"] not in ("missing", "value_error") and isinstance(item["input"], str | int | float | bool):
        message += f", got {str(item['input'])[:60]!r}"
    return key, message


def _line_of(file: Traversable, key: Sequence[str | int]) -> int:
    """The line of the innermost part of a key that stands in a file; what a parser put between is passed over."""
    node = yaml.compose(file.read_bytes(), _Loader)
    if node is None:
        return 1
    line = node.start_mark.line
    for part in map(str, key):
        if isinstance(node, yaml.MappingNode):
            entries = {name.value: (name, value) for name, value in node.value}
        elif isinstance(node, yaml.SequenceNode):
            entries = {str(index): (value, value) for index, value in enumerate(node.value)}
        else:
            break
        if part in entries:
            named, node = entries[part]
            line = named.start_mark.line
    return int(line) + 1


class _Loader(yaml.SafeLoader):
    """The safe loader, which further refuses duplicate keys and aliases (which can nest to any size)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.MarkedYAMLError(problem="a key must be a plain word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """An int that the program can print: Python refuses to write those of thousands of digits."""
    number = int(loader.construct_yaml_int(node))
    if number.bit_length() > LONGEST_NUMBER:
        raise yaml.MarkedYAMLError(problem="a number of too many digits", problem_mark=node.start_mark)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def read_yaml(file: Traversable) -> Any:
    """Plain data from a YAML file; UsageError names file and line."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None
    if len(raw) > LONGEST_FILE:
        raise UsageError(f"{file}: {len(raw)} bytes is too long for a YAML file here; at most {LONGEST_FILE}")
    try:
        return copy.deepcopy(_parsed(raw))
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{file}{line}: {error.problem}") from None
    except RecursionError:
        raise UsageError(f"{file}: nested too deeply") from None
    except Exception as error:  # of a value tagged as what it is not, PyYAML's constructors raise anything
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{file}: not valid YAML: {type(error).__name__}: {reason}") from None


@functools.lru_cache(maxsize=128)
def _parsed(raw: bytes) -> Any:
    """What a text says: the same built-in files are read again and again, and PyYAML takes milliseconds."""
    return yaml.load(raw, _Loader)  # noqa: S506 (a SafeLoader)


class _Dumper(yaml.SafeDumper):
    """The safe dumper, writing a value out each time it occurs: the loader takes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_yaml(data: Any) -> str:
    """Plain data as YAML, keys in the order given, short lists on one line."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
