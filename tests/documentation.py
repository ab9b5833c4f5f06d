"""The pages of the documentation, taken apart."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "src/segtune/model/tiny.md",
)


def by_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def code_lines(page: Path) -> tuple[str, ...]:
    """Lines of fenced and indented blocks, continued lines as one, without comments."""
    lines, fenced = [], False
    for line in page.read_text("utf-8").replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(re.sub(r" {2,}# .*", "", line).strip())
    return tuple(lines)


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    return re.sub(r"^ {4}.*$", "", text, flags=re.M)


@cache
def inline_code(page: Path) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`\n]+)`", prose(page)))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in headings}


def links() -> list[tuple[Path, str]]:
    found = []
    for page in PAGES:
        without_code = re.sub(r"`[^`\n]+`", "``", prose(page))
        found += [(page, target) for target in re.findall(r"\]\(([^)]*)\)", without_code)]
    return found


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table whose head begins with a text, row by row."""
    text = page.read_text("utf-8").partition(f"\n| {heading}")[2]
    rows = text.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
