"""Counting tokens: the package's own tokenizer as oracle."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from segtune.core.errors import WeightsError
from segtune.model.architecture import build_model
from segtune.model.components import Tokenizer
from segtune.model.forward import encode_prompts
from segtune.model.sam3_package import SimpleTokenizer
from segtune.model.tokenizer import MAX_TOKENS, bpe_vocabulary, count_tokens, tokens_read


@pytest.mark.parametrize(
    "text",
    ["a cat", "two words " * 14, "ten words more than there is room for " * 5, "ü" * 40],
)
def test_a_text_fits_when_none_of_it_is_cut_off(text: str) -> None:
    tokenizer = SimpleTokenizer(bpe_path=str(bpe_vocabulary()))
    read = int((tokenizer([text], context_length=200) != 0).sum())
    assert (count_tokens(text) <= MAX_TOKENS) == (read <= MAX_TOKENS)


def test_texts_are_padded_to_the_longest_and_no_further() -> None:
    texts = ["a cat", "wow ! what a cat", "!"]  # the token of "!" is that of padding
    path = str(bpe_vocabulary())
    whole = SimpleTokenizer(bpe_path=path)(texts, context_length=32)
    found = Tokenizer(bpe_path=path)(texts, context_length=32)
    assert found.shape == (3, 7)
    assert torch.equal(found, whole[:, :7]) and not whole[:, 7:].any()
    long = ["ten words more than there is room for " * 5]
    assert torch.equal(Tokenizer(bpe_path=path)(long, 32), SimpleTokenizer(bpe_path=path)(long, 32))


def test_padding_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a cat", "a small red square"]
    model = build_model("tiny").eval()
    with torch.no_grad():
        found = encode_prompts(model, texts, torch.device("cpu"))
        monkeypatch.setattr(Tokenizer, "__call__", SimpleTokenizer.__call__)
        padded = encode_prompts(model, texts, torch.device("cpu"))
    length = len(found["language_features"])
    assert length == 6 and len(padded["language_features"]) == 32
    shown = ~found["language_mask"].T
    assert_close(found["language_features"][shown], padded["language_features"][:length][shown])
    assert padded["language_mask"][:, length:].all()


def test_the_vocabulary_is_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"another vocabulary")
    monkeypatch.setattr("segtune.model.tokenizer.files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match=r"missing or altered.*Reinstall"):
        bpe_vocabulary()


@pytest.mark.parametrize("text", ["Red  blood-cell", "potholle 12", "ü" * 40, "green leaf " * 20])
def test_what_is_read_of_a_text_is_what_the_tokenizer_encodes(text: str) -> None:
    tokenizer = SimpleTokenizer(bpe_path=str(bpe_vocabulary()))
    _, *read = tokenizer([text], context_length=MAX_TOKENS)[0].tolist()
    read = read[: read.index(tokenizer.eot_token_id)]
    assert [token.removesuffix("|") for token in tokens_read(text)] == [
        tokenizer.decode([token]).rstrip() for token in read
    ]


def test_parts_of_a_word_are_marked() -> None:
    assert tokens_read("Potholle in a road") == ["po|", "thol|", "le", "in", "a", "road"]
