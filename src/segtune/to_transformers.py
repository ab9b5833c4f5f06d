"""Write a merged model, and its adapter, for the transformers package.

The folder has what `Sam3Model` and `Sam3Processor` read, the adapter for PEFT, the prompts and
confidence thresholds, and a model card, which tells how to call the model so that it answers as
it was evaluated. Every tensor of the file is compared with the merged weights.
"""

from collections.abc import Sequence

from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.publishing import published
from segtune.interchange.facts import read_facts
from segtune.interchange.model_card import transformers_card, write_card
from segtune.interchange.processor_files import write_processor
from segtune.interchange.sources import export_parser, sources_of
from segtune.interchange.transformers_adapter import write_transformers_adapter
from segtune.interchange.transformers_model import write_transformers_model
from segtune.lora.adapter import attach_adapter
from segtune.model.architecture import ARCHITECTURES, set_image_size
from segtune.model.mapped_weights import load_mapped
from segtune.model.official_format import official_again
from segtune.model.recognition import base_model_name


def main(argv: Sequence[str] | None = None) -> None:
    """Write the folder, on the CPU."""
    arguments = export_parser("to_transformers", __doc__).parse_args(argv)
    with exit_on_error("to_transformers"), published(arguments.out) as folder:
        # Loading checks that the weights are complete, of this architecture, and finite.
        model = load_mapped(arguments.model, arguments.weights)
        image_size = set_image_size(model, arguments.model, arguments.image_size)
        base = base_model_name(model, arguments.model)
        facts = read_facts(sources_of(arguments), base=base, image_size=image_size)
        attach_adapter(model, arguments.adapter)
        write_transformers_adapter(folder / "adapter", model, base, strength=facts.strength)
        write_transformers_model(
            folder,
            lambda: official_again(arguments.weights).detector,
            ARCHITECTURES[arguments.model],
            image_size=image_size,
        )
        write_processor(folder, image_size)
        write_card(folder, transformers_card(facts), facts)
    log_line(f"wrote {arguments.out}; its README.md tells how to call the model")


if __name__ == "__main__":
    main()
