"""Write the merged weights as safetensors: the same tensors, in a file that cannot run code."""

from collections.abc import Sequence

from segtune.core.console import log_line
from segtune.core.errors import exit_on_error
from segtune.core.publishing import published
from segtune.interchange.facts import read_facts
from segtune.interchange.model_card import official_card, write_card
from segtune.interchange.safetensors_file import write_safetensors
from segtune.interchange.sources import export_parser, sources_of
from segtune.model.architecture import ARCHITECTURES
from segtune.model.official_format import official_again, read_official
from segtune.model.recognition import release_of, require_architecture
from segtune.model.updated_file import all_tensors


def main(argv: Sequence[str] | None = None) -> None:
    """Write `sam3.safetensors`, prompts, thresholds and the model card."""
    arguments = export_parser("to_safetensors", __doc__).parse_args(argv)
    with exit_on_error("to_safetensors"), published(arguments.out) as folder:
        official = read_official(arguments.weights)
        release = release_of(official, arguments.weights)
        require_architecture(official, arguments.model, release, arguments.weights)
        facts = read_facts(
            sources_of(arguments),
            base=release.repository if arguments.model == "full" else f"segtune/{arguments.model}",
            image_size=arguments.image_size or ARCHITECTURES[arguments.model].image_size,
        )
        write_safetensors(
            folder / "sam3.safetensors", lambda: all_tensors(official_again(arguments.weights))
        )
        write_card(folder, official_card(facts), facts)
    log_line(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
