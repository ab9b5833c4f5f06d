"""What a `Sam3Processor` of the transformers package reads: how images and texts are prepared.

Its own CLIP tokenizer reads some texts differently from SAM 3's, which repairs them with ftfy
first. A `tokenizer.json` can repair what prompts are likely to hold: curly quotes, ligatures, wide
characters and HTML entities.
"""

import json
from pathlib import Path
from typing import Any

from segtune.core.atomic import atomic_path, write_json
from segtune.interchange.transformers_config import processor_config
from segtune.model.sam3_package import SimpleTokenizer
from segtune.model.tokenizer import MAX_TOKENS, bpe_vocabulary

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# In this order, because &amp;lt; is read as &lt; first.
REPAIRS = {
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&#39;": "'",
    "&apos;": "'",
    "&nbsp;": " ",
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
    "\ufb00": "ff",
    "\ufb01": "fi",
    "\ufb02": "fl",
    "\ufb03": "ffi",
    "\ufb04": "ffl",
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
}


def write_processor(folder: Path, image_size: int) -> None:
    """Write `processor_config.json`, `tokenizer.json` and `tokenizer_config.json`.

    Args:
        folder: of the model.
        image_size: side of the input, in pixels.
    """
    write_json(folder / "processor_config.json", processor_config(image_size))
    write_json(folder / "tokenizer_config.json", _tokenizer_config())
    with atomic_path(folder / "tokenizer.json") as temporary:
        temporary.write_text(json.dumps(_tokenizer(), ensure_ascii=False), "utf-8")


def _tokenizer_config() -> dict[str, Any]:
    return {
        # Not CLIP's own class, which would put its normalizer in the place of the file's.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Sam3Processor",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "pad_token": END,
        "unk_token": END,
    }


def _tokenizer() -> dict[str, Any]:
    bpe = SimpleTokenizer(bpe_path=str(bpe_vocabulary()))
    vocabulary = dict(bpe.encoder)
    for name in [word for word, number in vocabulary.items() if number in bpe.all_special_ids]:
        del vocabulary[name]
    special = dict(zip((START, END), bpe.all_special_ids, strict=True))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, number) for name, number in special.items()],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers()},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": WORDS},
                    "behavior": "Removed",
                    "invert": True,
                },
                {
                    "type": "ByteLevel",
                    "add_prefix_space": False,
                    "trim_offsets": True,
                    "use_regex": False,
                },
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, special[END]],
            "cls": [START, special[START]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "BPEDecoder", "suffix": "</w>"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary | special,
            "merges": [list(pair) for pair in bpe.bpe_ranks],
        },
    }


def _added(name: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **flags, "special": True}


def _normalizers() -> list[dict[str, Any]]:
    repairs = [
        {"type": "Replace", "pattern": {"String": old}, "content": new}
        for old, new in REPAIRS.items()
    ]
    spaces = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    return [*repairs, {"type": "NFC"}, spaces, {"type": "Lowercase"}]
