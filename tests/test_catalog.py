"""YAML: strict reading, one-line errors, writing that can be read again."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from dipsearch import catalog
from dipsearch.error import UsageError
from dipsearch.genome import load_genome

quick = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalog") / "mine.yaml"


def refusal(path: Path, content: str | bytes) -> str:
    """The error that a content meets: one line that names the file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        catalog.read_yaml(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


def reread(path: Path, data: Any) -> Any:
    path.write_text(catalog.dump_yaml(data), encoding="utf-8", newline="\n")
    return catalog.read_yaml(path)


# Reading


def test_plain_data_is_read(path: Path) -> None:
    path.write_text("a: 1\nb: [x, 2.5, true, null]\nc: {d: 'é'}\n", encoding="utf-8")
    assert catalog.read_yaml(path) == {"a": 1, "b": ["x", 2.5, True, None], "c": {"d": "é"}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a'"),
        ("a:\n  b: 1\n  b: 1\n", 3, "duplicate key 'b'"),
        ("{a: 1, a: 1}", 1, "duplicate key 'a'"),
        ("- {x: 1}\n- {x: 1, y: 2, x: 3}\n", 2, "duplicate key 'x'"),
        ("a: &it [1]\nb: *it\n", 2, "aliases"),
        ("a: &a [*a]\n", 1, "aliases"),
        ("a: {b: 1}\n<<: {c: 2}\n", 2, ""),
        ("a: !!python/object/apply:os.getcwd []\n", 1, "python/object"),
        ("a: 1\nb: !!python/name:os.getcwd\n", 2, "python/name"),
        ("a: !mine 3\n", 1, "!mine"),
        ("? [a, b]\n: 1\n", 1, "key"),
        ("2020-01-02: 1\n", 1, "key"),
        ("null: 1\n", 1, "key"),
        ("a: 1\n---\nb: 2\n", 2, "document"),
        ("a: [1, 2\n", 2, ""),
        ("a: 1\n\tb: 2\n", 2, ""),
        ("a: b: c\n", 1, ""),
        ("a: 'open\n", 2, ""),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, line: int, words: str, path: Path) -> None:
    message = refusal(path, text)
    assert f", line {line}: " in message
    assert words in message


def test_many_aliases_cannot_blow_up(path: Path) -> None:
    levels = "\n".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 30))
    assert "line 2: aliases" in refusal(path, f"a0: &a0 [x]\n{levels}\n")


@pytest.mark.parametrize(
    "content", ["[" * 5000, "{a: " * 5000, "- " * 5000, "[" * 5000 + "]" * 5000], ids=lambda c: c[:4]
)
def test_deep_nesting_is_refused(content: str, path: Path) -> None:
    assert "deep" in refusal(path, content)


def test_a_long_file_is_refused(path: Path) -> None:
    at_most = "#" * catalog.LONGEST_FILE
    path.write_text(at_most)
    assert catalog.read_yaml(path) is None
    message = refusal(path, at_most + "#")
    assert "262145 bytes" in message and "at most 262144" in message


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x00\x01\x02", b"\xff\xfe\x00", b"a: \xff", b"\xc3", b"a: \x1b[31m"],
    ids=repr,
)
def test_binary_junk_is_refused(content: bytes, path: Path) -> None:
    refusal(path, content)


@pytest.mark.parametrize(
    "value",
    [
        "!!bool maybe", "!!int ''", "!!int x", "!!float ''", "!!float x", "!!timestamp soon", "!!timestamp ''",
        "!!map [b]", "!!map b", "!!set [b]", "!!seq b", "!!omap b", "!!pairs [b]", "!!binary é", "2020-99-99",
        "9" * 5000, "0x" + "f" * 6000, "0x1" + "0" * 16, "!!str [b]", "!!null [b]",
    ],
    ids=lambda value: value[:16],
)  # fmt: skip
def test_a_value_that_its_tag_does_not_allow_is_refused(value: str, path: Path) -> None:
    refusal(path, f"a: {value}\n")


@quick
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_on_one_line(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        catalog.read_yaml(path)
    except UsageError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


@quick
@given(text=st.text(alphabet=":-?[]{},#&*!|>'\"%@` \n\tab01.~é", max_size=40))
@example(text="!!map [a]")
@example(text="!!int ''")
def test_any_text_is_read_or_refused_on_one_line(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
    try:
        catalog.read_yaml(path)
    except UsageError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for file in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UsageError) as caught:
            catalog.read_yaml(file)
        assert str(file) in str(caught.value) and "cannot be read" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


# Finding


@pytest.mark.parametrize("kind", catalog.FOLDERS)
def test_every_built_in_file_can_be_located_and_read(kind: str) -> None:
    found = catalog.names(kind)
    assert list(found) == sorted(found) and found
    for name, file in found.items():
        assert catalog.locate(kind, name) == file
        assert isinstance(catalog.read_yaml(file), dict)


def test_built_in_names() -> None:
    assert {"decoder", "dip", "small", "upsampling", "wide"} <= set(catalog.names("search_spaces"))
    assert {"denoise", "inpaint", "sr"} <= set(catalog.names("tasks"))
    assert {"dip-denoise", "dip-text"} <= set(catalog.names("genomes"))


@pytest.mark.parametrize("kind", catalog.FOLDERS)
@pytest.mark.parametrize("name", ["magic", "", "..", "two\nlines"])
def test_an_unknown_name_is_answered_with_the_choices(kind: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        catalog.locate(kind, name)
    message = str(caught.value)
    assert f"unknown {catalog.NOUNS[kind]} {name!r}" in message
    assert all(choice in message for choice in catalog.names(kind))
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("name", ["absent.yaml", "absent.yml", "folder/absent", "./dip-denoise", "folder/"])
def test_a_path_is_never_a_name(name: str) -> None:
    assert catalog.locate("genomes", name) == Path(name)
    with pytest.raises(UsageError, match="cannot be read"):
        catalog.load("genomes", name, dict)


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_genome(str(tmp_path / "absent.yaml"))
    assert str(caught.value).count(str(tmp_path)) == 1


# Errors of what was read


def test_at_most_three_problems_are_told_and_the_rest_counted() -> None:
    with pytest.raises(UsageError) as caught:
        catalog.validate("somewhere", TypeAdapter(list[int]).validate_python, ["a", "b", "c", "d", "e"])
    message = str(caught.value)
    assert message.startswith("somewhere: 0: ") and "got 'a'" in message
    assert "2: " in message and "3: " not in message
    assert message.endswith("(and 2 more)")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just words",
        "[1, 2]",
        "depth: 3",
        "family: hourglass\nnorm: |\n  two\n  lines\n",
        "family: hourglass\ndepth: |\n  two\n  lines\n",
        'family: hourglass\n"two\\nlines": 1\n',
        'family: "two\\nlines"\n',
        'family: hourglass\ninput: {kind: "two\\nlines"}\n',
        'family: hourglass\ninput: {"two\\nlines": 1}\n',
        "genome: 3",
        "family: [a]",
        "family: {a: 1}",
        "1: 2",
    ],
    ids=repr,
)
def test_a_file_of_something_else_is_refused_on_one_line(text: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_genome(str(path))
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("genome:\n  family: hourglass\n  norm: batsch\n", 3, "norm: "),
        ("genome:\n  family: hourglass\n  depth: 2\n  upsample:\n  - nearest\n  - nearst\n", 6, "upsample.1.name: "),
        ("genome:\n  family: hourglass\n  depth: 2\n  upsample: nearst\n", 4, "upsample.0.name: "),
        ("genome: {family: resnet,\n  blocks: 3,\n  colour: 3}\n", 3, "colour: "),
        ("about: x\ngenome: {family: resnet}\nparameters: many\n", 3, "parameters: "),
        ("about: x\n\ngenome:\n  family: magic\n", 3, "genome: "),
        ("family: resnet\n\nblocks: 0\n", 3, "blocks: "),
        ("about: x\n", 1, "genome: "),
        ("", 1, "(top level): "),
        ("# only words\n\njust words\n", 3, "(top level): "),
    ],
)
def test_an_error_names_the_line_of_its_key(text: str, line: int, key: str, path: Path) -> None:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_genome(str(path))
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert key in str(caught.value)


def test_of_several_problems_the_first_one_s_line_is_named(path: Path) -> None:
    path.write_text("family: resnet\nchannels: 0\nblocks: 0\n")
    with pytest.raises(UsageError, match=r", line 3: resnet\.blocks: .*; resnet\.channels: "):
        load_genome(str(path))


# Writing

# Control characters aside: PyYAML does not keep all of them.
words = st.text(st.characters(exclude_categories=("Cc", "Cs")) | st.sampled_from("\n\t\x00\x7f"), max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@quick
@given(data=plain)
@example(data={"no": "yes", "1": "1e3", "=": "=", "<<": "~", "": ""})
@example(data={"a": 1e16, "b": -0.0, "c": math.inf, "d": 1e-300, "e": 0.1})
def test_what_is_written_can_be_read(path: Path, data: Any) -> None:
    assert reread(path, data) == data


def test_a_value_that_occurs_twice_is_written_twice(path: Path) -> None:
    part = {"x": [1, 2]}
    assert reread(path, {"a": part, "b": part, "c": [part, part]}) == {"a": part, "b": part, "c": [part, part]}


def test_order_of_keys_and_letters_stay() -> None:
    text = catalog.dump_yaml({"z": "é×", "a": [1, 2, 3]})
    assert text == "z: é×\na: [1, 2, 3]\n"


def test_what_was_read_once_is_read_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("genes: {depth: [1, 2]}\n")
    first = catalog.read_yaml(file)
    first["genes"]["depth"].append(3)
    assert catalog.read_yaml(file) == {"genes": {"depth": [1, 2]}}
    file.write_text("genes: {depth: [1, 4]}\n")
    assert catalog.read_yaml(file) == {"genes": {"depth": [1, 4]}}
