"""SAM 3's text tokens: the vocabulary, and the length of a prompt."""

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.core.errors import WeightsError

if TYPE_CHECKING:
    from segtune.model.sam3_package import SimpleTokenizer

MAX_TOKENS = 32  # read by SAM 3's text encoder, including a start and an end
BPE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def count_tokens(text: str) -> int:
    """Tokens of a prompt with its start and end; an upper bound where that already fits."""
    bound = len(text.encode()) + 2  # a token is at least one byte
    if bound <= MAX_TOKENS:
        return bound
    return len(_tokenizer().encode(text)) + 2


def tokens_read(text: str) -> list[str]:
    """A prompt as the text encoder reads it: words, and parts of words that end with "|".

    A prompt that is too long ends where the text encoder stops reading.
    """
    tokenizer = _tokenizer()
    pieces = (tokenizer.decode([token]) for token in tokenizer.encode(text)[: MAX_TOKENS - 2])
    return [piece[:-1] if piece.endswith(" ") else f"{piece}|" for piece in pieces]


@cache
def _tokenizer() -> "SimpleTokenizer":
    # Importing the package takes seconds, which short prompts need not wait for.
    from segtune.model.sam3_package import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(bpe_vocabulary()))


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
