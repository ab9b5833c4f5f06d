"""Load a merged file with stock SAM 3's own builder and loader; fail unless it is complete.

`python -m benchmarks.full_size_stock_load sam3.pt`
"""

import sys

import torch
from torch.overrides import TorchFunctionMode

from segtune.model.sam3_package import Sam3Image
from segtune.model.tokenizer import bpe_vocabulary


class CudaOnCpu(TorchFunctionMode):
    """The stock builder allocates on cuda; where there is none, use the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")) == "cuda" and not torch.cuda.is_available():
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


def main(path: str) -> None:
    """Compare the tensors that the stock loader has loaded with those of the file."""
    from sam3.model_builder import build_sam3_image_model

    with CudaOnCpu():
        model: Sam3Image = build_sam3_image_model(
            bpe_path=str(bpe_vocabulary()),
            device="cpu",
            checkpoint_path=path,
            load_from_HF=False,
        )
    saved = torch.load(path, weights_only=True, mmap=True)["model"]
    loaded = {f"detector.{key}": value for key, value in model.state_dict().items()}
    missing, unexpected = loaded.keys() - saved.keys(), saved.keys() - loaded.keys()
    different = [
        key for key in loaded.keys() & saved.keys() if not torch.equal(loaded[key], saved[key])
    ]
    print(f"missing {len(missing)}, unexpected {len(unexpected)}, different {len(different)}")
    if missing or unexpected or different:
        raise SystemExit(1)


if __name__ == "__main__":
    main(sys.argv[1])
