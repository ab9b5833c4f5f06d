"""Counting tokens: the package's own tokenizer as oracle."""

from pathlib import Path

import pytest

from segtune.core.errors import WeightsError
from segtune.model.sam3_package import SimpleTokenizer
from segtune.model.tokenizer import MAX_TOKENS, bpe_vocabulary, count_tokens


@pytest.mark.parametrize(
    "text",
    ["a cat", "two words " * 14, "ten words more than there is room for " * 5, "ü" * 40],
)
def test_a_text_fits_when_none_of_it_is_cut_off(text: str) -> None:
    tokenizer = SimpleTokenizer(bpe_path=str(bpe_vocabulary()))
    read = int((tokenizer([text], context_length=200) != 0).sum())
    assert (count_tokens(text) <= MAX_TOKENS) == (read <= MAX_TOKENS)


def test_the_vocabulary_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"another vocabulary")
    monkeypatch.setattr("segtune.model.tokenizer.files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match=r"missing or altered.*Reinstall"):
        bpe_vocabulary()
