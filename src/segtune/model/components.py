"""The package's classes where segtune needs them to behave differently.

Some fail without CUDA, one depends on the first batch it sees, one makes a GPU wait, some compute
for every prompt what is the same for all prompts of an image, or what nobody reads, and the trunk
can start in front of any of its blocks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from segtune.model.sam3_package import (
    BinaryHungarianMatcherV2,
    PositionEmbeddingSine,
    Prompt,
    Sam3DualViTDetNeck,
    SequenceGeometryEncoder,
    SimpleTokenizer,
    TransformerEncoderLayer,
    ViT,
    get_abs_pos,
)

SCALES_READ = 3  # of the neck's feature maps


@dataclass(frozen=True)
class ImageRows:
    """Which rows of a batch of P prompts show which of B images."""

    image_ids: Tensor  # (P,)
    first: Tensor  # (B,) a row of each image

    @classmethod
    def of(cls, image_ids: Tensor, images: int) -> "ImageRows":
        """From the image of each prompt (P,), without waiting for a GPU."""
        rows = torch.arange(len(image_ids), device=image_ids.device)
        last = rows[-1:].expand(images)  # also for an image without a prompt
        return cls(image_ids, last.scatter_reduce(0, image_ids, rows, "amin"))


class Trunk(ViT):
    """The stock ViT, which can be cut in front of a block.

    `first_block` None: images (B, 3, S, S) come in, as in the package. Otherwise the activations
    (B, h, w, C) that come out of the blocks before it, from `prefix`.
    """

    first_block: int | None = None

    def prefix(self, images: Tensor, blocks: int) -> Tensor:
        """The activations (B, h, w, C) after the first `blocks` blocks.

        Args:
            images: (B, 3, S, S), normalized.
            blocks: how many, from 0 to all.
        """
        x: Tensor = self.patch_embed(images)
        x = self.ln_pre(
            x
            + get_abs_pos(
                self.pos_embed,
                self.pretrain_use_cls_token,
                tuple(x.shape[1:3]),
                self.retain_cls_token,
                tiling=self.tile_abs_pos,
            )
        )
        for block in self.blocks[:blocks]:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> list[Tensor]:
        """The last feature map (B, C, h, w), in a list."""
        if self.first_block is None:
            return cast(list[Tensor], super().forward(x))
        x = x.float()  # between blocks, activations are in float32 even with mixed precision
        for block in self.blocks[self.first_block :]:
            recomputed = self.use_act_checkpoint and self.training
            x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
        return [self.ln_post(x).permute(0, 3, 1, 2)]


class Neck(Sam3DualViTDetNeck):
    """The stock neck, which makes only the feature maps that are read.

    The package computes a fourth one and discards it, and encodes the positions of all of them,
    though only those of the smallest one are read.
    """

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], None, None]:
        """Of (B, 3, S, S) images, or of what the trunk starts with: feature maps (B, C, h, w)."""
        x = self.trunk(images)[-1]
        maps = [convolution(x) for convolution in self.convs[:SCALES_READ]]
        positions = self.position_encoding(maps[-1]).to(maps[-1].dtype)
        return maps, [positions], None, None


class Tokenizer(SimpleTokenizer):
    """The stock tokenizer, which pads texts only to the longest of them.

    The package pads all to 32 tokens. Padding is hidden from every other token, so that only the
    time that it takes makes a difference.
    """

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """The tokens (n, L) of n texts; 0 is padding."""
        tokens: Tensor = super().__call__(texts, context_length)
        longest = max(len(self.encode(text)) for text in texts) + 2  # with a start and an end
        return tokens[:, :longest]


class EncoderLayer(TransformerEncoderLayer):
    """The stock layer; the first one attends within each image once, and not for each prompt.

    Its input is the image, which meets the prompt only after the self-attention.
    """

    rows: ImageRows | None = None  # of the first layer

    def forward_pre(
        self,
        tgt: Tensor,
        memory: Tensor,
        *,
        memory_key_padding_mask: Tensor,
        query_pos: Tensor,
        **inputs: Any,
    ) -> Tensor:
        """As in the package; tgt is (P, h * w, C)."""
        if self.rows is None:
            whole = super().forward_pre(
                tgt,
                memory,
                memory_key_padding_mask=memory_key_padding_mask,
                query_pos=query_pos,
                **inputs,
            )
            return cast(Tensor, whole)
        first = self.rows.first
        x = self.norm1(tgt[first])  # (B, h * w, C)
        q = k = x + query_pos[first]
        tgt = tgt + self.self_attn(q, k, value=x)[0][self.rows.image_ids]
        x = self.norm2(tgt)
        tgt = (
            tgt
            + self.cross_attn_image(
                query=x, key=memory, value=memory, key_padding_mask=memory_key_padding_mask
            )[0]
        )
        x = self.norm3(tgt)
        return cast(Tensor, tgt + self.linear2(self.activation(self.linear1(x))))


class TextPromptedGeometryEncoder(SequenceGeometryEncoder):
    """The stock encoder pins memory even for zero boxes, which fails without CUDA.

    Without boxes its output is the same for all prompts of an image.
    """

    rows: ImageRows | None = None

    def forward(
        self,
        geo_prompt: Prompt,
        img_feats: list[Tensor],
        img_sizes: list[Any],
        img_pos_embeds: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """As in the package; the features are (h * w, P, C), the outputs (1, P, C) and (P, 1)."""
        if self.rows is None or len(geo_prompt.box_embeddings):
            return super().forward(geo_prompt, img_feats, img_sizes, img_pos_embeds)
        first = self.rows.first
        found, mask = super().forward(
            Prompt(
                box_embeddings=geo_prompt.box_embeddings[:, first],
                box_mask=geo_prompt.box_mask[first],
            ),
            [features[:, first] for features in img_feats],
            img_sizes,
            [positions[:, first] for positions in img_pos_embeds],
        )
        return found[:, self.rows.image_ids], mask[self.rows.image_ids]

    def _encode_boxes(
        self, boxes: Tensor, boxes_mask: Tensor, boxes_labels: Tensor, img_feats: Tensor
    ) -> tuple[Tensor, Tensor]:
        if len(boxes) == 0:
            return img_feats.new_zeros(0, boxes.shape[1], self.d_model), boxes_mask
        encoded = super()._encode_boxes(boxes, boxes_mask, boxes_labels, img_feats)
        return cast(tuple[Tensor, Tensor], encoded)


class PositionEncoding(PositionEmbeddingSine):
    """Bitwise identical whichever batch fills the cache.

    The stock encoding caches the result of the first batch. Vectorized kernels round sines
    depending on their position in memory, so it depends on the batch size, and a resumed
    training run, whose first batch is another one, would diverge from an uninterrupted one.
    Here, one image always fills the cache.
    """

    def forward(self, x: Tensor) -> Tensor:
        one = cast(Tensor, super().forward(x[:1]))
        return one.expand(len(x), -1, -1, -1).contiguous()


class Matcher(BinaryHungarianMatcherV2):
    """Tolerates NaN, so that it reaches the loss, where all processes stop together.

    The stock matcher raises in the process that has the NaN, and the others wait forever.
    """

    def forward(self, outputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        finite = {
            name: outputs[name].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            for name in ("pred_logits", "pred_boxes")
        }
        return super().forward({**outputs, **finite}, *args, **kwargs)
