"""Merging at full size: seconds and memory, against the size of the base checkpoint.

`python -m benchmarks.full_size_merge` writes SAM 3 with random weights in the official layout, an
adapter of the recipe's LoRA with random values, and an image; `segtune.merge` then runs as a
process of its own. Resident memory contains the mapped pages of files, which the system can take
back at any time; anonymous memory does not. Needs 8 GB of disk.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.full_size import write_export
from segtune import __version__
from segtune.convert import main as convert
from segtune.core.config import Config
from segtune.lora.adapter import save_adapter
from segtune.lora.inject import inject_lora, lora_parameters
from segtune.lora.state import lora_state_dict
from segtune.lora.targets import lora_specs
from segtune.model.architecture import build_model
from segtune.model.official_format import write_official

POLL = 0.02  # seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files, merge, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="for all files; default: a temporary folder")
    parser.add_argument("--strength", type=float, default=0.8)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        base = folder / "base.pt"
        forked(write_files, folder, base)
        seconds, resident, anonymous = measured(
            *("-m", "segtune.merge", "--adapter", str(folder / "adapter")),
            *("--model", "full", "--weights", str(base), "--out", str(folder / "merge")),
            *("--coco", str(folder / "coco" / "valid.json")),
            *("--settings", f'{{"strength": {arguments.strength}}}'),
        )
        size = base.stat().st_size
        print(f"base checkpoint {size / 1e9:.2f} GB; merged in {seconds:.0f} s")
        print(
            f"peak of resident memory {resident / 1e9:.2f} GB, base + {(resident - size) / 1e9:.2f}"
        )
        print(f"peak of anonymous memory {anonymous / 1e9:.2f} GB")
        print((folder / "merge" / "parity.json").read_text("utf-8"))


def forked(write: Callable[..., None], *arguments: Path) -> None:
    """Write files in another process, so that a model is not in the memory of this one."""
    process = os.fork()
    if not process:
        write(*arguments)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise SystemExit("the files could not be written")


def write_files(folder: Path, base: Path) -> None:
    """Write a converted dataset, a base checkpoint and an adapter for it to a folder."""
    write_export(folder / "export")
    convert(["--export", str(folder / "export"), "--out", str(folder / "coco")])
    model = build_model("full")
    write_official(base, model.state_dict(), {})
    settings = Config.model_validate({"export": "any", "model": "full"}).train
    components = {name: lora for name, lora in settings.lora.items() if lora}
    adapted = inject_lora(model, lora_specs(components))
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in lora_parameters(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=noise) * 0.01)
    recipe = {
        "segtune": __version__,
        "model": "full",
        "weights": str(base),
        "image_size": None,
        "settings": {"select_by": "AP"},
        "data": {},
        "result": {"best_score": 0.0, "best_epoch": 0, "base_score": 0.0},
    }
    state = lora_state_dict(model)
    save_adapter(folder / "adapter", state, specs=adapted, base_model="random", recipe=recipe)


def measured(*arguments: str) -> tuple[float, float, float]:
    """Seconds, and the peaks of resident and of anonymous memory in bytes, of a Python process."""
    began, anonymous = time.perf_counter(), 0
    process = os.posix_spawn(sys.executable, [sys.executable, *arguments], dict(os.environ))
    while True:
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            break
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
        found = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        anonymous = max(anonymous, *found, 0)
        time.sleep(POLL)
    if status:
        raise SystemExit("the command failed")
    # Linux reports both in KiB.
    return time.perf_counter() - began, usage.ru_maxrss * 1024, anonymous * 1024


if __name__ == "__main__":
    main()
