"""Unfinished results: complete lines count, whatever else is in the folder."""

from pathlib import Path
from typing import Any

import pytest

from segtune.core.partial_results import (
    add_image,
    finished_images,
    gathered_records,
    new_part,
    partial_folder,
)

FINGERPRINT = {"weights": "a", "code": ["b"]}


def result(image_id: int) -> list[dict[str, Any]]:
    return [{"image_id": image_id, "score": 0.5}]


def written(tmp_path: Path, *image_ids: int) -> Path:
    folder = partial_folder(tmp_path / "out.json")
    finished_images(folder, FINGERPRINT)
    with new_part(folder) as part:
        for image_id in image_ids:
            add_image(part, image_id, result(image_id))
    return folder


def test_results_of_all_processes_come_in_the_order_of_the_images(tmp_path: Path) -> None:
    written(tmp_path, 4, 1)
    folder = written(tmp_path, 2)
    with new_part(folder) as part:
        add_image(part, 3, [])
    assert finished_images(folder, FINGERPRINT) == {1, 2, 3, 4}
    found = list(gathered_records(folder, [1, 2, 3, 4]))
    assert found == [*result(1), *result(2), *result(4)]


@pytest.mark.parametrize("torn", [b'[3, [{"image', b"\0\0\0\0\n", b'[3, [{"image\n', b"[3, []"])
def test_a_torn_line_is_not_a_result(tmp_path: Path, torn: bytes) -> None:
    folder = written(tmp_path, 1, 2)
    (part,) = folder.glob("*.jsonl")
    part.write_bytes(part.read_bytes() + torn)
    assert finished_images(folder, FINGERPRINT) == {1, 2}
    assert list(gathered_records(folder, [1, 2])) == [*result(1), *result(2)]


@pytest.mark.parametrize("content", [b"", b"\0\0", b'{"weights": "other"}'])
def test_another_or_a_damaged_fingerprint_discards_all(tmp_path: Path, content: bytes) -> None:
    folder = written(tmp_path, 1)
    (folder / "fingerprint.json").write_bytes(content)
    assert finished_images(folder, FINGERPRINT) == set()
    assert finished_images(written(tmp_path, 2), FINGERPRINT) == {2}


def test_a_fingerprint_does_not_depend_on_the_order_of_its_keys(tmp_path: Path) -> None:
    folder = written(tmp_path, 1)
    assert finished_images(folder, dict(reversed(FINGERPRINT.items()))) == {1}
