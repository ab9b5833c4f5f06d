"""Writing the three files that X-AnyLabeling runs, and checking that they answer as the model."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor, nn

from segtune.core.atomic import atomic_path
from segtune.core.errors import ConfigError, WeightsError
from segtune.interchange.onnx_parts import Decoder, ImageEncoder, LanguageEncoder
from segtune.model.forward import detect_encoded, encode_images
from segtune.model.sam3_package import Sam3Image, SimpleTokenizer
from segtune.model.tokenizer import MAX_TOKENS, bpe_vocabulary

NEEDED = ("onnx", "onnxruntime", "onnxscript")
OPSET = 20
FILES = {part: f"sam3_{part}.onnx" for part in ("image_encoder", "language_encoder", "decoder")}
TRACED_SIZE, OTHER_SIZE = (90, 130), (200, 110)  # (height, width) of original images
SCORE_TOLERANCE = 1e-5
MASK_TOLERANCE = 1e-4  # of the pixels

Array = npt.NDArray[Any]
Part = ImageEncoder | LanguageEncoder | Decoder


def require_onnx() -> None:
    """Check that the packages for ONNX are installed, which segtune does not need otherwise.

    Raises:
        ConfigError: naming those that are missing.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(
            f"the export to ONNX needs packages that are not installed: {', '.join(missing)}",
            fix=f"pip install {' '.join(NEEDED)}",
        )


def write_onnx(folder: Path, model: Sam3Image, *, image_size: int, min_score: float) -> None:
    """Write the three files, each with its weights beside it in a file that ends with `.data`.

    Args:
        folder: for the files.
        model: on the CPU, in evaluation mode.
        image_size: side of the input, in pixels.
        min_score: lowest score of what the decoder returns.
    """
    for name in ("onnxscript", "onnx_ir"):  # they tell how they optimize
        logging.getLogger(name).setLevel(logging.ERROR)
    image, tokens = _image(image_size, seed=0), tokens_of("a thing")
    encoder, language = ImageEncoder(model), LanguageEncoder(model)
    decoder = Decoder(model, min_score)
    height, width = map(torch.tensor, TRACED_SIZE)
    with torch.no_grad():
        features, (mask, text, _) = encoder(image), language(tokens)
        _export(folder / FILES["image_encoder"], encoder, (image,))
        _export(folder / FILES["language_encoder"], language, (tokens,))
        inputs = (height, width, *features[2:], mask, text)
        _export(folder / FILES["decoder"], decoder, inputs)


def write_labeling_config(path: Path, name: str) -> None:
    """Write the file with which X-AnyLabeling loads the model as a custom one.

    Args:
        path: beside the model.
        name: that is shown.
    """
    keys = {
        "image_encoder": ("encoder_model_path", "encoder_model_data_path"),
        "language_encoder": ("language_encoder_path", "language_encoder_data_path"),
        "decoder": ("decoder_model_path", "decoder_model_data_path"),
    }
    values = {"type": "segment_anything_3", "name": "sam3-segtune", "display_name": name}
    for part, (model, data) in keys.items():
        values |= {model: FILES[part], data: f"{FILES[part]}.data"}
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")


def require_same_answers(
    folder: Path, model: Sam3Image, *, image_size: int, min_score: float
) -> tuple[float, float]:
    """Run the files on another input than the traced one, and compare with the model.

    Args:
        folder: of the files.
        model: that they are made of.
        image_size: side of the input, in pixels.
        min_score: lowest score of what the decoder returns.

    Returns:
        The largest difference of a score, and the fraction of mask pixels that differ.

    Raises:
        WeightsError: when they differ by more than rounding.
    """
    image, tokens = _image(image_size, seed=1), tokens_of("another red thing")
    _, scores, masks = run_onnx(folder, image.numpy(), tokens.numpy(), OTHER_SIZE)
    own_scores, own_masks = _own_answers(model, image, tokens, min_score)
    if scores.shape == own_scores.shape:
        deviation = float(np.abs(scores - own_scores).max(initial=0.0))
        differing = float((masks != own_masks).mean()) if masks.size else 0.0
        if deviation <= SCORE_TOLERANCE and differing <= MASK_TOLERANCE:
            return deviation, differing
    raise WeightsError(
        "the exported model answers otherwise than the original",
        file=folder,
        fix="Please report this as a bug, with the versions of torch, onnx and onnxruntime",
    )


def run_onnx(
    folder: Path, image: Array, tokens: Array, size: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Run the three files as X-AnyLabeling does.

    Args:
        folder: of the files.
        image: (3, S, S) uint8.
        tokens: (1, 32).
        size: (height, width) of the original image, in pixels.

    Returns:
        Boxes (n, 4) xyxy in pixels, scores (n,) and masks (n, 1, height, width).
    """
    known: dict[str, Array] = {
        "image": image,
        "tokens": tokens,
        "original_height": np.array(size[0]),
        "original_width": np.array(size[1]),
    }
    for file in FILES.values():
        known |= _run(folder / file, known)
    return known["boxes"], known["scores"], known["masks"]


def tokens_of(text: str) -> Tensor:
    """The tokens (1, 32) of a text; 0 is padding."""
    tokenizer = SimpleTokenizer(bpe_path=str(bpe_vocabulary()), context_length=MAX_TOKENS)
    return tokenizer([text])


def _run(path: Path, known: dict[str, Array]) -> dict[str, Array]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {one.name: known[one.name] for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _export(path: Path, part: Part, inputs: Sequence[Tensor]) -> None:
    torch.onnx.export(
        part.eval(),
        tuple(inputs),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(part.INPUTS),
        output_names=list(part.OUTPUTS),
        external_data=True,
        verbose=False,
    )


def _image(side: int, seed: int) -> Tensor:
    """A random image (3, side, side)."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, side, side), generator=noise).byte()


def _own_answers(
    model: Sam3Image, image: Tensor, tokens: Tensor, min_score: float
) -> tuple[Array, Array]:
    """Scores (n,) and masks (n, 1, height, width) of the model itself."""
    first = torch.zeros(1, dtype=torch.long)
    with torch.inference_mode():
        mask, text, _ = LanguageEncoder(model)(tokens)
        features = {**encode_images(model, image[None]), "language_mask": mask}
        outputs = detect_encoded(
            model, {**features, "language_features": text}, image_ids=first, text_ids=first
        )
        presence = outputs["presence_logit_dec"].sigmoid()
        scores = (outputs["pred_logits"].sigmoid()[..., 0] * presence)[0]
        found = scores >= min_score
        logits = nn.functional.interpolate(
            outputs["pred_masks"][0, found][:, None], OTHER_SIZE, mode="bilinear"
        )
    return scores[found].numpy(), (logits > 0).numpy()
