"""The package's DETR decoder, with a position bias that takes hardly any memory.

Each layer biases the attention to the image by where the rows and columns of the feature map are,
relative to the box that a query has so far (Lin et al. 2023, "DETR Does Not Need Multi-Scale or
Locality Design"). The bias of a pixel is the sum of what its row and its column add. The package
keeps the biases of all pixels until the backward pass: at full size and for ten prompts, 0.33 GB in
bfloat16 for each of six layers. Here rows and columns are kept, 9 MB, and added again when needed.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torchvision.ops import box_convert

from segtune.model.sam3_package import TransformerDecoder, TransformerDecoderLayer

BIAS_SCALE = 8  # distances of an eighth of the image and more grow logarithmically


class Decoder(TransformerDecoder):
    """The stock decoder for square feature maps, whose side it does not ask the GPU for.

    The package keeps the height and width of the feature map in a tensor, and compares it with
    shapes about sixty times in a forward pass; on a GPU, each comparison waits for all that was
    launched before.
    """

    def forward(self, *, memory: Tensor, **inputs: Any) -> Any:
        """As in the package; memory is (side * side, P, C)."""
        self._side, self._starts = math.isqrt(len(memory)), True
        return super().forward(memory=memory, **inputs)

    def _get_rpb_matrix(self, reference_boxes: Tensor, feat_size: object) -> Tensor:
        """What rows, then columns add (P, heads, Q, 2 * side), for boxes (Q, P, 4) cxcywh."""
        if not self._starts:
            return self._bias(reference_boxes)
        self._starts = False
        # The first boxes are the same for all prompts, and for both halves in training.
        bias = self._bias(reference_boxes[: self.num_queries, :1])
        prompts, halves = reference_boxes.shape[1], len(reference_boxes) // self.num_queries
        return bias.expand(prompts, -1, -1, -1).repeat(1, 1, halves, 1)

    def _bias(self, reference_boxes: Tensor) -> Tensor:
        # Contiguous, as everything that is made of it then is.
        boxes_xyxy = box_convert(reference_boxes.transpose(0, 1).contiguous(), "cxcywh", "xyxy")
        places = torch.arange(self._side, dtype=torch.float32, device=boxes_xyxy.device)
        places = places[:, None] / self._side
        columns = _added(self.boxRPB_embed_x, places - boxes_xyxy[:, :, None, 0::2])
        rows = _added(self.boxRPB_embed_y, places - boxes_xyxy[:, :, None, 1::2])
        return torch.cat([rows, columns], dim=2).permute(0, 3, 1, 2)


class DecoderLayer(TransformerDecoderLayer):
    """The stock layer, without dropout and with a presence token, on the biases of `Decoder`."""

    checkpointed = True

    def forward(
        self,
        tgt: Tensor,
        tgt_query_pos: Tensor,
        memory_text: Tensor,
        text_attention_mask: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        cross_attn_mask: Tensor,
        dac: bool,
        presence_token: Tensor,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """As in the package, except for the bias: (P * heads, Q, 2 * side).

        Returns:
            Queries (Q, P, C) and the presence token (1, P, C).
        """
        tgt = torch.cat([presence_token, tgt])
        positions = torch.cat([torch.zeros_like(presence_token), tgt_query_pos])
        # Queries that train one-to-many, the second half, do not see the others.
        seen = 1 + len(tgt) // 2 if dac else len(tgt)
        first = tgt[:seen]
        query = first + positions[:seen]
        tgt = self.norm2(torch.cat([first + self.self_attn(query, query, first)[0], tgt[seen:]]))
        from_text = self.ca_text(
            tgt + positions, memory_text, memory_text, key_padding_mask=text_attention_mask
        )[0]
        tgt = self.catext_norm(tgt + from_text)
        bias = F.pad(cross_attn_mask, (0, 0, 1, 0))  # none for the presence token
        from_image = self._attend(tgt + positions, memory + memory_pos, value=memory, bias=bias)
        tgt = self.forward_ffn(self.norm1(tgt + from_image))
        return tgt[1:], tgt[:1]

    def _attend(self, query: Tensor, key: Tensor, *, value: Tensor, bias: Tensor) -> Tensor:
        whole = _of_pixels(bias)
        if self.checkpointed:  # computes all again, this too
            attended = self.cross_attn(query, key, value, attn_mask=whole)
        else:
            with _added_again(bias, whole):
                attended = self.cross_attn(query, key, value, attn_mask=whole)
        return attended[0]


def _added(network: nn.Module, distances: Tensor) -> Tensor:
    """(P, Q, side, heads) of distances from two edges (P, Q, side, 2), as fractions."""
    scaled = distances * BIAS_SCALE
    logarithmic = scaled.sign() * (scaled.abs() + 1).log2() / math.log2(BIAS_SCALE)
    bias: Tensor = network(logarithmic)
    return bias


def _of_pixels(bias: Tensor) -> Tensor:
    """(N, Q, side * side) of what rows and columns add (N, Q, 2 * side)."""
    rows, columns = bias.chunk(2, dim=-1)
    return (rows[..., :, None] + columns[..., None, :]).flatten(-2)


@dataclass(frozen=True)
class _View:
    shape: torch.Size
    strides: tuple[int, ...]


@contextmanager
def _added_again(bias: Tensor, whole: Tensor) -> Iterator[None]:
    """What is computed within keeps `bias` for the backward pass instead of `whole`, made of it."""
    storage = weakref.ref(whole.untyped_storage())

    def pack(saved: Tensor) -> Tensor | _View:
        if saved.untyped_storage() is not storage():
            return saved
        return _View(saved.shape, saved.stride())

    def unpack(kept: Tensor | _View) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return _of_pixels(bias.detach()).as_strided(kept.shape, kept.strides)

    with saved_tensors_hooks(pack, unpack):
        yield
