"""Numbers written into semroute.yaml: where they go, and that no other byte changes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semroute.config import load_config
from semroute.edit import edited, write_settings
from semroute.errors import ConfigError
from semroute.sources import plain
from semroute.yaml import compose

KEY = "vote.min_confidence"


def changed(text, value=0.5, key=KEY):
    return edited(text.encode(), {key: value}, "f").decode()


@pytest.mark.parametrize(
    "before, after",
    [
        ("vote:\n  min_confidence:   auto  # why\n", "vote:\n  min_confidence:   0.5  # why\n"),
        ("vote:\n  min_confidence: 'auto'\nb: 1", "vote:\n  min_confidence: 0.5\nb: 1"),
        ("vote:\n  min_confidence: >-\n    auto\nb: 1\n", "vote:\n  min_confidence: 0.5\nb: 1\n"),
        ("vote: {a: 1, min_confidence: .3, b: 2}\n", "vote: {a: 1, min_confidence: 0.5, b: 2}\n"),
        ('{"vote": {"min_confidence": 1}}', '{"vote": {"min_confidence": 0.5}}'),
        ("vote:\n  min_confidence:\nb: 1\n", "vote:\n  min_confidence: 0.5\nb: 1\n"),
    ],
    ids=["plain", "quoted", "folded", "in braces", "json", "empty"],
)
def test_a_value_is_written_over(before, after):
    assert changed(before) == after


@pytest.mark.parametrize(
    "before, after",
    [
        (
            "vote:\n    # how many\n    neighbors: 20   # so many\n\n# next\nb: 1\n",
            "vote:\n    # how many\n    neighbors: 20   # so many\n    min_confidence: 0.5\n\n# next\nb: 1\n",
        ),
        ("vote: {neighbors: 20 }\n", "vote: {neighbors: 20, min_confidence: 0.5 }\n"),
        ("vote: {\n  a: 1, # one\n}\n", "vote: {\n  a: 1, min_confidence: 0.5, # one\n}\n"),
        ("vote: {}\n", "vote: {min_confidence: 0.5}\n"),
        ('{"vote": {"a": 1},\r\n "b": {}}', '{"vote": {"a": 1, "min_confidence": 0.5},\r\n "b": {}}'),
        ('{"b": 1}', '{"b": 1, "vote": {"min_confidence": 0.5}}'),
        ("b:\r\n   c: 1\r\n", "b:\r\n   c: 1\r\nvote:\r\n   min_confidence: 0.5\r\n"),
        ("b: 1", "b: 1\nvote:\n  min_confidence: 0.5"),
        ("b: |\n  text\n\n", "b: |\n  text\nvote:\n  min_confidence: 0.5\n\n"),
        (
            "vote:\n  a:\n    - 1\n    # of a\nb: 2\n",
            "vote:\n  a:\n    - 1\n  min_confidence: 0.5\n    # of a\nb: 2\n",
        ),
        ("vote:\n", "vote: {min_confidence: 0.5}\n"),
        ("vote: first # now\n", "vote: {min_confidence: 0.5} # now\n"),
    ],
    ids=[
        "line",
        "pair",
        "pair of lines",
        "empty braces",
        "json",
        "json, no mapping",
        "no mapping, CRLF",
        "no last line end",
        "after a block text",
        "after a list",
        "nothing",
        "a word",
    ],
)
def test_a_missing_key_is_put_in(before, after):
    assert changed(before) == after


def test_a_number_that_stands_there_stays_as_it_is_written():
    for text in (
        "vote: {min_confidence: 0.50}",
        "vote: {min_confidence: 5e-1}",
        "vote: {min_confidence: &a .5}",
    ):
        assert changed(text) == text


def test_a_small_number_has_no_exponent():
    assert changed("vote: {min_confidence: 1}", 0.00000465) == "vote: {min_confidence: 0.00000465}"
    assert changed("vote: {min_confidence: 0.1}", 1.0) == "vote: {min_confidence: 1}"


def test_the_byte_order_mark_and_wide_characters_stay():
    text = '\ufeffnote: "\\ud83d\\ude00 😀"  # ä\nvote: {min_confidence: 0.1}\n'
    assert changed(text) == text.replace("0.1", "0.5")


@pytest.mark.parametrize(
    "text, said",
    [
        ("vote: &v\n  min_confidence: 1\nb: *v\n", "anchor"),
        ("b: &v {min_confidence: 1}\nvote: *v\n", "f:2:1: an alias"),
        ("b: &v 0.1\nvote: {min_confidence: &w 0.2}\nc: *w\n", "anchor"),
        ("vote: [1]\n", "a list"),
        ("vote: {min_confidence: [1]}\n", "no single value"),
        ("vote: {\n", "never closed|no `,`"),
    ],
)
def test_what_cannot_be_written_without_changing_more_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        changed(text)


def test_an_alias_as_the_value_is_written_over():
    assert changed("b: &v 0.1\nvote: {min_confidence: *v }\n") == "b: &v 0.1\nvote: {min_confidence: 0.5 }\n"


# Property: any layout, only the value


_COMMENTS = st.sampled_from(["", "  # a comment: {with} [marks]", " # 0.25"])
_ENDS = st.sampled_from(["\n", "\r\n"])
_NUMBERS = st.floats(0.0, 1.0, allow_nan=False).map(lambda value: round(value, 6))
_TEXTS = st.sampled_from(
    ["plain", "'single: quoted'", '"double \\u00e4 # no comment"', "ä ö", "{a: 1}", "[1, 2]"]
)
_WRITTEN = st.sampled_from(["auto", '"auto"', "0.25", "1e-1", "'0.3'", ".5"])


@st.composite
def documents(draw):
    """Text around one value: what stands before it and behind it."""
    end, indent = draw(_ENDS), " " * draw(st.integers(1, 6))
    lines = [f"before: {draw(_TEXTS)}{draw(_COMMENTS)}"] * draw(st.integers(0, 1))
    if draw(st.booleans()):
        head, tail = (
            f"vote: {{ x: {draw(_TEXTS)} , min_confidence:  ",
            draw(st.sampled_from([" }", ", z: 1}"])),
        )
    else:
        inner = [f"{indent}x: {draw(_TEXTS)}{draw(_COMMENTS)}"] * draw(st.integers(0, 1))
        head = end.join([f"vote:{draw(_COMMENTS)}", *inner, f"{indent}min_confidence: "])
        tail = draw(_COMMENTS)
    rest = draw(st.sampled_from(["", end, f"{end}{end}# last{end}after: 1{end}"]))
    mark = draw(st.sampled_from(["", "\ufeff"]))
    return mark + end.join([*lines, head]), tail + rest


@given(documents(), _WRITTEN, _NUMBERS)
def test_only_the_bytes_of_the_value_change(around, written, value):
    before, behind = around
    data = (before + written + behind).encode()
    found = edited(data, {KEY: value}, "f")
    assert found.startswith(before.encode()) and found.endswith(behind.encode())
    middle = found[len(before.encode()) : len(found) - len(behind.encode())].decode()
    assert float(middle) == value and "e" not in middle
    assert edited(found, {KEY: value}, "f") == found


@given(documents(), _WRITTEN, _NUMBERS)
def test_a_new_key_is_put_between_the_bytes_that_are_there(around, written, value):
    before, behind = around
    data = (before + written + behind).encode()
    found = edited(data, {"vote.max_distance": value}, "f")
    shared = next(place for place in range(len(found)) if found[place : place + 1] != data[place : place + 1])
    assert len(found) > len(data) and found.endswith(data[shared:])
    document = compose(found.decode("utf-8-sig"), "f")
    assert document.problems == () and plain(document.root)["vote"]["max_distance"] == value
    assert found.count(b"\r\n") == found.count(b"\n") or b"\r\n" not in found or b"\r\n" not in data


# The file


def test_writing_keeps_the_file_its_mode_and_its_link(write_project, tmp_path):
    folder = write_project()
    file = folder / "semroute.yaml"
    real = tmp_path / "elsewhere.yaml"
    file.rename(real)
    file.symlink_to(real)
    real.chmod(0o640)
    (written,) = write_settings(folder, {KEY: 0.4})
    assert (written.key, written.before, written.after) == (KEY, None, 0.4)
    assert written.place.file == str(file) and written.place.line == 1
    assert load_config(folder).settings.vote.min_confidence == 0.4
    assert file.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"routes", "elsewhere.yaml"}
    assert all(not path.name.startswith(".") for path in folder.iterdir())
    assert write_settings(folder, {KEY: 0.4}) == []


@pytest.mark.parametrize("value, said", [(1.5, "0 to 1"), (-1.0, "0 to 1")])
def test_what_would_not_be_valid_is_not_written(write_project, value, said):
    folder = write_project()
    before = (folder / "semroute.yaml").read_bytes()
    with pytest.raises(ConfigError, match=said) as caught:
        write_settings(folder, {KEY: value})
    assert caught.value.problems[0].file == str(folder / "semroute.yaml")
    assert (folder / "semroute.yaml").read_bytes() == before


def test_a_folder_that_is_not_valid_is_not_touched(write_project):
    folder = write_project(settings={"unknown": 1})
    before = (folder / "semroute.yaml").read_bytes()
    with pytest.raises(ConfigError, match="unknown"):
        write_settings(folder, {KEY: 0.4})
    assert (folder / "semroute.yaml").read_bytes() == before


def test_several_numbers_at_once(write_project):
    folder = write_project(settings={"select": {"quality": 1}})
    write_settings(
        folder, {KEY: 0.4, "vote.max_distance": 0.7, "select.cost": 0.01, "escalations.max_risk": 0.2}
    )
    settings = load_config(folder).settings
    assert (settings.vote.min_confidence, settings.vote.max_distance) == (0.4, 0.7)
    assert settings.select.cost == 0.01 and settings.escalations.max_risk == 0.2
    assert json.loads((folder / "semroute.yaml").read_text())["select"] == {"quality": 1, "cost": 0.01}
