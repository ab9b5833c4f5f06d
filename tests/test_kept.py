"""The command that lists what is kept, and cleans up."""

from pathlib import Path

import pytest

from segtune.core.kept import just_kept, kept_result, place
from segtune.kept import main


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two kept trainings; the second is in place."""
    out = tmp_path / "results" / "train"
    for seed in (1, 2):
        fingerprint = {"settings": {"seed": seed, "epochs": 8}, "code": {"a.py": str(seed)}}
        with kept_result(out / "kept", fingerprint, f"AP 0.{seed} on valid") as folder:
            (folder / "history.jsonl").write_text(f"{seed}" * 2_000_000)
        place(just_kept(out / "kept", fingerprint), out)
    return tmp_path / "results"


def listed(results: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    main(["--results", str(results), *options])
    return capsys.readouterr().out.splitlines()


def digests(results: Path) -> set[str]:
    return {path.name for path in (results / "train" / "kept").iterdir()}


def test_what_is_kept_is_listed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    title, second, first = listed(results, capsys)
    assert title == f"{results}/train/kept:"
    assert second.endswith("AP 0.2 on valid  2.0 MB  in place")
    assert first.endswith("AP 0.1 on valid  2.0 MB  seed: 2 -> 1; other code")
    assert {line.split()[0] for line in (first, second)} == digests(results)
    assert listed(results / "none", capsys) == [f"nothing is kept below {results}/none"]


def test_all_but_what_is_in_place_is_removed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, second, first = listed(results, capsys)
    (removed,) = listed(results, capsys, "--all")
    assert first.split()[0] in removed
    assert digests(results) == {second.split()[0]}
    assert (results / "train" / "history.jsonl").exists()


def test_one_is_removed_by_its_digest(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, second, first = (line.split()[0] for line in listed(results, capsys))
    listed(results, capsys, "--remove", first)
    assert digests(results) == {second}


def test_what_is_in_place_or_unknown_is_not_removed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, second, first = (line.split()[0] for line in listed(results, capsys))
    for digest, message in ((second, "is the result in place"), ("0", "nothing with the digest 0")):
        with pytest.raises(SystemExit) as raised:
            main(["--results", str(results), "--remove", first, digest])
        assert raised.value.code == 1
        assert message in capsys.readouterr().err
    assert digests(results) == {first, second}
