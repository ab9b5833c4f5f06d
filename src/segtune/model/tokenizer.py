"""SAM 3's text tokens: the vocabulary, and whether a prompt fits."""

import hashlib
from importlib.resources import files
from pathlib import Path

from segtune.core.errors import WeightsError

MAX_TOKENS = 32  # that SAM 3's text encoder reads, a start and an end among them
BPE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def count_tokens(text: str) -> int:
    """Tokens of a prompt with its start and end; at most as many where they surely fit."""
    bound = len(text.encode()) + 2  # a token is a byte at least
    if bound <= MAX_TOKENS:
        return bound
    # Importing the package takes seconds, which short names need not wait for.
    from segtune.model.sam3_package import SimpleTokenizer

    return len(SimpleTokenizer(bpe_path=str(bpe_vocabulary())).encode(text)) + 2


def bpe_vocabulary() -> Path:
    """The BPE vocabulary, which the `sam3` wheel lacks and `open_clip` carries.

    Raises:
        WeightsError: when the installed file is missing or is not SAM 3's vocabulary.
    """
    path = Path(str(files("open_clip") / "bpe_simple_vocab_16e6.txt.gz"))
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != BPE_SHA256:
        raise WeightsError(
            "the BPE vocabulary of the text encoder is missing or altered",
            file=path,
            fix="Reinstall open_clip_torch",
        )
    return path
