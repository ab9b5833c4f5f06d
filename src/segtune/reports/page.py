"""One way to make a page: every template here extends `page.html.j2` and shares `page.css`.

A page is one self-contained file. Its policy forbids every connection; images are inside it.
"""

from pathlib import Path
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from segtune.core.atomic import atomic_path

FOLDER = Path(__file__).parent
UNKNOWN = "n/a"


def write_page(path: Path, template: str, **values: object) -> None:
    """Render a template into a page and write it atomically.

    Args:
        path: of the HTML file.
        template: a file name beside this module.
        values: what the template uses; a name that it uses and that is missing is an error.
    """
    page = _environment().get_template(template).render(values)
    with atomic_path(path) as temporary:
        temporary.write_text(page, "utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "percent": _percent,
        "svg": _svg,
    }
    environment.globals["source"] = _source
    return environment


def _source(name: str) -> Markup:
    """A style sheet or script, which must not be escaped."""
    return Markup((FOLDER / name).read_text("utf-8"))


def _number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.3f}"


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{100 * value:.0f}%"


def _svg(chart: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(chart, encoding="unicode"))
