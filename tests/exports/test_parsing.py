"""Label files as text, CSV, XML and YAML: parsed in bounded time, or one error each."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segtune.core.errors import ExportError
from segtune.exports.parsing import read_rows, read_table, read_xml, read_yaml

LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
XML_LAUGHS = '<!DOCTYPE a [<!ENTITY b "b"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_yaml, LAUGHS, r"cannot read the YAML \(line 1 is used by an alias\)"),
        (read_yaml, "a: &a {b: *a}", "is used by an alias"),
        (read_yaml, "[" * 50_000, "nested too deeply"),
        (read_yaml, "- " * 3000 + "a", "nested too deeply"),
        (read_yaml, "names: [a]\nnames: [b]", "the key in line 2 is a duplicate: 'names'"),
        (read_yaml, "{a: 1}: 2", "the key in line 1 is not text"),
        (read_yaml, "a: !!python/object/apply:os.system [ls]", "python/object.* is not allowed"),
        (read_yaml, 'a: "\\UFFFFFFFF"', "cannot read the YAML"),
        (read_yaml, "a: 1\n---\nb: 2", "cannot read the YAML"),
        (read_yaml, "a: \x1b", "cannot read the YAML"),
        (read_yaml, "a: [" + "b, " * 44_000 + "]", "larger than 131072 bytes"),
        (read_yaml, "[a]", "not a map of settings"),
        (read_yaml, "", "not a map of settings"),
        (read_xml, XML_LAUGHS, "it declares entities"),
        (read_xml, "<a>" * 10, "cannot read the XML"),
        (read_xml, "<a>&#x1b;</a>", "cannot read the XML"),
        (read_xml, "<a>\x00</a>", "cannot read the XML"),
        (read_table, "a,b\n" + "x" * 200_000, r"line 2: cannot read the CSV \(field larger than"),
        (read_table, "a,b,a\n", "the column 'a' is a duplicate"),
        (read_table, ",".join(map(str, [*range(100_000), 7])), "the column '7' is a duplicate"),
        (read_table, "a,b\n1,2\n1,2,3\n", "line 3: 3 values for 2 columns"),
    ],
)
def test_what_cannot_be_parsed_is_one_error(
    tmp_path: Path, read: Callable[[Path], Any], content: str, message: str
) -> None:
    path = tmp_path / "labels"
    path.write_text(content, "utf-8")
    began = time.monotonic()
    with pytest.raises(ExportError, match=message) as raised:
        read(path)
    assert raised.value.file == str(path)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("read", [read_yaml, read_xml, read_table, read_rows])
@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_one_error(
    tmp_path: Path, read: Callable[[Path], Any], encoding: str
) -> None:
    path = tmp_path / "labels"
    path.write_text("é: é", encoding)
    with pytest.raises(ExportError, match="not UTF-8 text: byte 0x"):
        read(path)


def test_yaml_is_the_text_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(
        "names: [no, yes, ~, 2024-01-01, 0x10, 1_000, 1e3, 'off', null, café, '']\n"
        "nc: 11\ntrain: ../train/images\nval:\ninner: {0: on, true: 1.50}\n"
    )
    assert read_yaml(path) == {
        "names": [
            *["no", "yes", "~", "2024-01-01", "0x10", "1_000", "1e3", "off", "null", "café", ""]
        ],
        "nc": "11",
        "train": "../train/images",
        "val": "",
        "inner": {"0": "on", "true": "1.50"},
    }


def test_deep_xml_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<a>" * 50_000 + "</a>" * 50_000)
    assert read_xml(tmp_path / "a.xml").tag == "a"


def test_a_table_knows_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('a,b,\n\n1,"2\n3",\n4\n5,6,\n', "utf-8-sig")
    columns, rows = read_table(path)
    assert columns == ["a", "b", ""]
    assert [(line, row.get("a"), row.get("b")) for line, row in rows] == [
        (4, "1", "2\n3"),
        (5, "4", None),
        (6, "5", "6"),
    ]
