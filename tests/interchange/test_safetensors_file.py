"""Writing safetensors: what is mapped from a file is read in groups."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from segtune.interchange.safetensors_file import write_safetensors
from segtune.model import mapped_weights
from tests.weight_files import same_bits

TENSORS = {
    "whole": torch.arange(60.0).reshape(6, 10),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "part": torch.arange(90.0)[30:50],
    "half": torch.arange(20.0).half(),
    "none": torch.zeros(0, 3),
    "flags": torch.tensor([True, False, True]),
}


class Noting(dict[str, Tensor]):
    """Tensors that know which of them were taken."""

    def __init__(self) -> None:
        super().__init__(TENSORS)
        self.taken: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.taken.add(name)
        return super().__getitem__(name)


def test_each_group_is_read_from_a_mapping_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_weights, "GROUP", 120)
    mappings: list[Noting] = []

    def anew() -> Mapping[str, Tensor]:
        mappings.append(Noting())
        return mappings[-1]

    write_safetensors(tmp_path / "x.safetensors", anew)
    written = load_file(tmp_path / "x.safetensors")
    assert written.keys() == TENSORS.keys()
    assert all(same_bits(written[name], tensor) for name, tensor in TENSORS.items())
    # The first one is for shapes and types only.
    read = [mapping.taken for mapping in mappings[1:]]
    assert sorted(name for names in read for name in names) == sorted(TENSORS)
    assert {"whole"} in read
    assert all(sum(TENSORS[n].nbytes for n in names) <= 120 or len(names) == 1 for names in read)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_full_export_takes_less_memory_than_the_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.full_size_exports", "--folder", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)
    found = re.search(r"^checkpoint ([\d.]+) GB", answer.stdout, re.MULTILINE)
    peaks = re.findall(r"resident memory ([\d.]+) GB", answer.stdout)
    assert found and len(peaks) == 2
    assert all(float(peak) < float(found[1]) for peak in peaks)
