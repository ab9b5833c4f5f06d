"""Write a merged model in three ONNX files, as X-AnyLabeling reads them.

The files are run with onnxruntime on another image, prompt and size than those that were traced,
and must answer as the model does. The packages for ONNX are not among those that segtune needs.
"""

from collections.abc import Sequence

from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.publishing import published
from segtune.interchange.facts import read_facts
from segtune.interchange.model_card import onnx_card, write_card
from segtune.interchange.onnx_files import (
    require_onnx,
    require_same_answers,
    write_labeling_config,
    write_onnx,
)
from segtune.interchange.sources import export_parser, sources_of
from segtune.model.architecture import set_image_size
from segtune.model.recognition import base_model_name
from segtune.model.weights import load_base_model

MIN_SCORE = 0.05  # of what the decoder returns, unless a threshold is lower


def main(argv: Sequence[str] | None = None) -> None:
    """Write the files, on the CPU."""
    arguments = export_parser("to_onnx", __doc__).parse_args(argv)
    with exit_on_error("to_onnx"), published(arguments.out) as folder:
        require_onnx()
        model = load_base_model(arguments.model, str(arguments.weights)).eval()
        image_size = set_image_size(model, arguments.model, arguments.image_size)
        base = base_model_name(model, arguments.model)
        facts = read_facts(sources_of(arguments), base=base, image_size=image_size)
        min_score = min(MIN_SCORE, *facts.thresholds.values())
        write_onnx(folder, model, image_size=image_size, min_score=min_score)
        scores, pixels = require_same_answers(
            folder, model, image_size=image_size, min_score=min_score
        )
        write_labeling_config(folder / "x-anylabeling.yaml", "SAM 3, fine-tuned with segtune")
        write_card(folder, onnx_card(facts, min_score), facts)
    log_line(
        f"wrote {arguments.out}; scores differ from the model's by at most {scores:.1e}, and "
        f"{pixels:.2%} of the pixels of masks"
    )


if __name__ == "__main__":
    main()
