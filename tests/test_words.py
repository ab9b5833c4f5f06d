"""One vocabulary: words that the field does not use appear nowhere in the project.

Each rule is a regular expression, in which a space also stands for "_" and "-", and what to
write instead. Text is searched without line breaks and comment marks, so that a phrase is found
across lines.
"""

import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SEARCHED = (
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "Snakefile", "config.yaml",
    "pyproject.toml", "docs", "src", "workflow", "presets", "profiles", "benchmarks",
    "pretraining", "tests", "data/make_demo.py",
)  # fmt: skip
SUFFIXES = {
    "", ".md", ".py", ".smk", ".yaml", ".toml", ".rst", ".html", ".j2", ".css", ".js",
}  # fmt: skip
COMMENT_MARKS = {"#", "//", "*", "/*", "*/", "<!--", "-->", '"', '"""', 'f"', '"#'}

RULES = {
    r"pictur(?:e|es|ed)": "image",
    r"knobs?": "setting, hyperparameter",
    r"spoil(?:s|t|ed|ing)?": "corrupted",
    r"mend(?:s|ed|ing)?": "fix",
    r"remed(?:y|ies)": "fix",
    r"carv(?:e|es|ed|ing)": "hold out, split off",
    r"suspects?|suspici\w*|suspected(?! label)": "label issue, issue score",
    r"outside (?:prompts?|words?)|(?:base|tuned|predict)[_-]outside": "out-of-distribution",
    r"beyond (?:the|your) data|(?:words?|things?) beyond": "out-of-distribution",
    r"asked(?! (?:for|to))": "prompted, given",
    r"said|told(?! (?:apart|from|to))": "predicted, reported",
    r"(?<!there )(?:is|are|was|were) no(?! (?:longer|more|less|better|worse))": "is not a …",
    r"no (?:readable|whole)": "cannot read …, incomplete",
    r"whole numbers?(?! of)": "integer",
    r"(?<!run )(?<!runs )(?<!stands )(?<!left )(?<!generator )(?<!batch )alone(?! and in)": (
        "only"
    ),
    r"(?:is|are) there twice": "is a duplicate",
    r"(?:go|goes|going|went|gone) on": "resume, continue",
    r"bit for bit|to the (?:last )?bit|changes? no bit": "bitwise identical",
    r"(?:an?|the|this|its|their|same|smaller|larger|equal|each|per|as) shares?"
    r"|shares? of|in shares"
    r"|shares(?! (?:the|its|their|an?|images|one|no|with|among|`page)(?![^\W_]))": "fraction",
    r"\w+_shares?(?!_)|share_of|(?-i:SHARES?)|--share": "fraction",
    r"colour\w*": "color",
    r"\w*(?:optim|normal|initial|raster|stabil|recogn|summar|local|serial|quant|general|synchron"
    r"|minim|maxim|organ|visual|token|penal|util|special|final|categor|custom|parallel|regular"
    r"|character|discret|linear|polar|equal|random|vector)is(?:e|es|ed|er|ers|ing|ation|ations)": (
        "American spelling: -ize"
    ),
    r"(?:un|re|mis)?(?:labell|modell|cancell|travell|signall)(?:ed|ing|er)": "American spelling",
    r"centred?|centres|licences?|behaviours?|favour\w*|neighbour\w*|grey\w*|catalogues?"
    r"|analys(?:e|ed|es|ing)(?<!analyses)|artefacts?|misspelt|learnt|spelt": "American spelling",
    r"(?:turned|upright) box(?:es)?": "oriented box, axis-aligned box",
    r"too good": "optimistically biased",
    r"nobody can tell": "ambiguous",
    r"kept (?:adapters?|epochs?)|(?:adapters?|epochs?) (?:(?:is|are|was|were) )?kept": (
        "best checkpoint, best epoch"
    ),
    r"(?<!AT_)(?-i:MOST_\w+|LEAST|MANY|FEW)": "MAX_…, MIN_… and the thing counted",
    r"(?<!by )mistakes?": "errors, error types",
    r"poor outlines?|nothing there": "localization, background",
    r"(?-i:source images?)": "original image",
    r"at the (?:least|most)(?! \w+ (?:of|image|score))": "at least, at most",
    r"/work/\w+|workplaces?|assistants?": "words about the project only",
}


@dataclass(frozen=True)
class Allowed:
    """Lines that may hold old words."""

    path: str
    line: str  # regular expression
    reason: str


EXCEPTIONS = (
    Allowed("tests/test_words.py", r"", "names the words"),
    Allowed("CHANGELOG.md", r"^\|", "tables of what was renamed"),
    Allowed(
        "src/segtune/core/setting_problems.py", r'^    "\w+": "\w+",$', "renamed: the old keys"
    ),
    Allowed(
        "src/segtune/core/setting_problems.py",
        r"^RENAMED_VALUES = ",
        "renamed settings: old values",
    ),
    Allowed("src/segtune/exports/formats/semantic.py", r"unlabelled", "how a class may be spelled"),
)


@dataclass(frozen=True)
class Text:
    """A file without line breaks and comment marks."""

    path: str
    lines: list[str]
    words: str
    starts: list[int]  # where each word begins in `words`
    numbers: list[int]  # in which line it is


def files() -> Iterator[Path]:
    for name in SEARCHED:
        place = ROOT / name
        paths = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in paths:
            hidden = any(p == "__pycache__" or p.endswith(".egg-info") for p in path.parts)
            if path.is_file() and path.suffix in SUFFIXES and not hidden:
                yield path


def without_alone(source: str) -> list[str]:
    """Lines of Python without variables called `alone`: one thing by itself, not "only"."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and token.string.lower() == "alone":
            row, column = token.start
            line = lines[row - 1]
            lines[row - 1] = f"{line[:column]}{' ' * len('alone')}{line[token.end[1] :]}"
    return lines


def read(path: Path) -> Text:
    source = path.read_text("utf-8")
    lines = source.splitlines()
    words, starts, numbers, length = [], [], [], 0
    searched = without_alone(source) if path.suffix == ".py" else lines
    for number, line in enumerate(searched, start=1):
        for word in line.split():
            if word not in COMMENT_MARKS:
                words.append(word)
                starts.append(length)
                numbers.append(number)
                length += len(word) + 1
    return Text(path.relative_to(ROOT).as_posix(), lines, " ".join(words), starts, numbers)


@cache
def texts() -> tuple[Text, ...]:
    return tuple(read(path) for path in files())


def pattern(rule: str) -> re.Pattern[str]:
    # Old words hide in names, too, where an underscore separates words.
    return re.compile(rf"(?<![^\W_])(?:{rule.replace(' ', '[ _-]')})(?![^\W_])", re.IGNORECASE)


def is_excepted(text: Text, number: int) -> bool:
    line = text.lines[number - 1]
    return any(e.path == text.path and re.search(e.line, line) for e in EXCEPTIONS)


def places(rule: str) -> list[str]:
    found = []
    for text in texts():
        for match in pattern(rule).finditer(text.words):
            number = text.numbers[bisect_right(text.starts, match.start()) - 1]
            if not is_excepted(text, number):
                found.append(f"{text.path}:{number}: {text.lines[number - 1].strip()}")
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[:24])
def test_an_old_word_is_nowhere(rule: str) -> None:
    found = places(rule)
    assert not found, f"write {RULES[rule]!r} instead:\n" + "\n".join(found)


def test_every_exception_is_needed() -> None:
    for exception in EXCEPTIONS:
        text = next(text for text in texts() if text.path == exception.path)
        lines = [line for line in text.lines if re.search(exception.line, line)]
        assert any(pattern(rule).search(line) for line in lines for rule in RULES), exception


@pytest.mark.parametrize(
    "text",
    [
        "there is no such file",
        "the file is not an image; none is nobody's",
        "this is no longer read",
        "along the way",
        "two jobs never share a card; shared memory; a process shares the images with another",
        "tensor.share_memory_()",
        "suspected label errors",
        "analyses of size, wise promises, precise, otherwise, noise, finish",
        "amended recommendations, commands, appendix",
        "run alone or under torchrun",
        "pass it on; ongoing; depends on",
        "colors of a color_jitter",
        "most of the least",
        "optimized normalization centered license labeled",
    ],
)
def test_good_english_is_accepted(text: str) -> None:
    assert not [rule for rule in RULES if pattern(rule).search(text)]


@pytest.mark.parametrize(
    "text",
    [
        "picture_size",
        "it is no number",
        "text alone",
        "the run goes on",
        "data_wait_share",
        "a share of the images",
        "MOST_LISTED",
        "colour_jitter",
        "rasterised",
        "unlabelled",
        "Licence",
        "outside_prompts",
        "the class asked",
        "carved_share",
        "test_a_run_goes_on",
    ],
)
def test_old_words_are_found(text: str) -> None:
    assert [rule for rule in RULES if pattern(rule).search(text)]
