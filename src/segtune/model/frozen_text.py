"""What a training run needs of frozen text weights, whose prompts are known when it starts.

Of a frozen text encoder, that is what it makes of the prompts; of one with adapters, the embeddings
of the prompts' tokens.
"""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segtune.model.forward import evaluating
from segtune.model.precision import mixed_precision
from segtune.model.sam3_package import Sam3Image


class EncodedPrompts(nn.Module):
    """The outputs of a text encoder for the prompts that there are.

    Args:
        prompts: N texts.
        mask: (N, L) bool, True where a text has no token.
        features: (L, N, C).
    """

    def __init__(self, prompts: Sequence[str], mask: Tensor, features: Tensor) -> None:
        super().__init__()
        self._rows = {prompt: row for row, prompt in enumerate(prompts)}
        self._mask, self._features = mask, features

    def forward(
        self, text: Sequence[str], input_boxes: object = None, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As the package's text encoder, for some of the prompts."""
        rows = torch.tensor([self._rows[prompt] for prompt in text], device=self._mask.device)
        features = self._features[:, rows]
        # The third output, the embeddings of the tokens, is not read in segtune's models.
        return self._mask[rows], features, features


def replace_text_encoder(
    model: Sam3Image, prompts: Collection[str], *, device: torch.device
) -> None:
    """Encode prompts once, and put the results in the place of the text encoder, in place.

    The encoder's parameters, 42 % of the full model's, are then free.

    Args:
        model: on `device`; its text encoder has no adapters.
        prompts: all that the model will ever be given from now on.
        device: of the model.
    """
    texts = sorted(set(prompts))
    encoder = model.backbone.language_backbone
    with torch.no_grad(), evaluating(model), mixed_precision(device):
        mask, features, _ = encoder(texts, device=device)
    model.backbone.language_backbone = EncodedPrompts(texts, mask, features)


class KnownTokens(nn.Module):
    """The embeddings of some tokens of a vocabulary, in the place of all.

    Args:
        weight: (V, C) of the whole vocabulary.
        tokens: those that are kept.
    """

    _rows: Tensor
    _weight: Tensor

    def __init__(self, weight: Tensor, tokens: Collection[int]) -> None:
        super().__init__()
        kept = torch.tensor(sorted(tokens), device=weight.device)
        rows = torch.full((len(weight),), -1, device=weight.device)
        rows[kept] = torch.arange(len(kept), device=weight.device)
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_weight", weight.detach()[kept], persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, C) of tokens (B, L); another token is an IndexError on a CPU."""
        return F.embedding(self._rows[tokens], self._weight)


def keep_embeddings(model: Sam3Image, prompts: Collection[str]) -> None:
    """Drop the embeddings of all tokens that no prompt has, in place: 0.2 GB of the full model.

    Args:
        model: with its own text encoder.
        prompts: all that the model will ever be given from now on.
    """
    text = model.backbone.language_backbone
    tokenizer = text.tokenizer
    tokens = {0, tokenizer.sot_token_id, tokenizer.eot_token_id}  # 0 pads
    tokens.update(token for prompt in prompts for token in tokenizer.encode(prompt))
    text.encoder.token_embedding = KnownTokens(text.encoder.token_embedding.weight, tokens)
