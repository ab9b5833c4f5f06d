"""The model in the three parts that X-AnyLabeling runs with ONNX, with its names.

The image and each prompt are encoded once; the decoder answers for one image and one prompt, with
the token that SAM 3 appends to a text. A box is not among its inputs, as in that program, which
only prompts with texts.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert

from segtune.dataset.batch import normalized
from segtune.model.sam3_package import FindStage, Prompt, Sam3Image

SCALES = range(3)  # of the feature maps, the largest first
POSITIONS = tuple(f"vision_pos_enc_{n}" for n in SCALES)
FEATURES = tuple(f"backbone_fpn_{n}" for n in SCALES)


class ImageEncoder(nn.Module):
    """An image (3, S, S) uint8 as feature maps (1, C, h, w), after their position encodings."""

    INPUTS = ("image",)
    OUTPUTS = (*POSITIONS, *FEATURES)

    def __init__(self, model: Sam3Image) -> None:
        super().__init__()
        self.neck = model.backbone.vision_backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        maps, _, _, _ = self.neck(normalized(image[None]))
        return (*(self.neck.position_encoding(features) for features in maps), *maps)


class LanguageEncoder(nn.Module):
    """Tokens (1, 32) as what hides padding (1, 32), text features and embeddings (32, 1, C)."""

    INPUTS = ("tokens",)
    OUTPUTS = ("language_mask", "language_features", "language_embeds")

    def __init__(self, model: Sam3Image) -> None:
        super().__init__()
        self.text = model.backbone.language_backbone

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        embeddings = self.text.encoder.token_embedding(tokens)
        _, encoded = self.text.encoder(tokens)
        return tokens == 0, self.text.resizer(encoded.transpose(0, 1)), embeddings.transpose(0, 1)


class Decoder(nn.Module):
    """Boxes (n, 4) xyxy in pixels, scores (n,) and masks (n, 1, height, width) of one prompt."""

    INPUTS = ("original_height", "original_width", POSITIONS[-1], *FEATURES, "language_mask",
              "language_features")  # fmt: skip
    OUTPUTS = ("boxes", "scores", "masks")

    def __init__(self, model: Sam3Image, min_score: float) -> None:
        super().__init__()
        self.model, self.min_score = model, min_score

    def forward(
        self,
        original_height: Tensor,
        original_width: Tensor,
        positions: Tensor,
        features_0: Tensor,
        features_1: Tensor,
        features_2: Tensor,
        language_mask: Tensor,
        language_features: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        encoded = {
            "vision_features": features_2,
            "vision_pos_enc": [positions],
            "backbone_fpn": [features_0, features_1, features_2],
            "language_mask": language_mask,
            "language_features": language_features,
        }
        outputs = self._outputs(encoded)
        scores = outputs["pred_logits"][0, :, 0].sigmoid() * outputs["presence_logit_dec"].sigmoid()
        found = (scores.flatten() >= self.min_score).nonzero().flatten()
        sides = torch.stack([original_width, original_height]).repeat(2)
        boxes_xyxy = box_convert(outputs["pred_boxes"][0, found], "cxcywh", "xyxy") * sides
        size = [cast(int, side.item()) for side in (original_height, original_width)]
        for side in size:
            torch._check(side > 0)
        logits = F.interpolate(
            outputs["pred_masks"][0, found][:, None], size, mode="bilinear", align_corners=False
        )
        return boxes_xyxy, scores.flatten()[found], logits > 0

    def _outputs(self, encoded: dict[str, Any]) -> dict[str, Any]:
        first = torch.zeros(1, dtype=torch.long)
        no_boxes, hidden = torch.zeros(0, 1, 4), torch.zeros(1, 0, dtype=torch.bool)
        stage = FindStage(
            img_ids=first,
            text_ids=first,
            input_boxes=no_boxes,
            input_boxes_mask=hidden,
            input_boxes_label=torch.zeros(0, 1, dtype=torch.long),
            input_points=None,
            input_points_mask=None,
        )
        outputs: dict[str, Any] = Sam3Image.forward_grounding(
            self.model,
            backbone_out=encoded,
            find_input=stage,
            find_target=None,
            geometric_prompt=Prompt(box_embeddings=no_boxes, box_mask=hidden),
        )
        return outputs
