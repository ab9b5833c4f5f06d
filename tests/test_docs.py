"""The documentation is true: its links, commands, settings, files and messages exist."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch
from urllib.parse import urlsplit

import pytest
import snakemake.exceptions
import yaml
from pydantic import BaseModel
from snakemake.cli import get_argument_parser

from segtune.core import errors
from segtune.core.config import (
    Config,
    LoraSettings,
    TrainSettings,
    parse_config,
    parse_section,
    parse_train,
)
from segtune.core.setting_problems import RENAMED, RENAMED_VALUES
from tests.documentation import (
    PAGES,
    ROOT,
    anchors,
    by_name,
    code_lines,
    inline_code,
    links,
    table,
)

MAX_README_LINES = 110
PROGRAMS = ("snakemake", "python -m ", "make ", "pytest ")
TOP_LEVEL = tuple(
    f"{path.name}/" for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")
)
RULES = {path.name: path.read_text("utf-8") for path in (ROOT / "workflow/rules").glob("*.smk")}
SECTIONS: dict[str, type[BaseModel]] = {
    field.alias or name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda value: str(value).split("/")[-1])
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    if "://" in target:
        parts = urlsplit(target)
        assert parts.scheme in ("http", "https")
        assert re.fullmatch(r"[\w.-]+\.\w+", parts.netloc)
        assert " " not in target
        return
    file, _, anchor = target.partition("#")
    place = (page.parent / file).resolve() if file else page
    assert place.is_relative_to(ROOT) and place.exists()
    assert not anchor or anchor in anchors(place)


def test_the_readme_is_one_page_and_leads_to_every_other() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in text


def test_images_of_the_documentation_are_shown() -> None:
    shown = {(page.parent / target).resolve() for page, target in links() if "://" not in target}
    assert {path.resolve() for path in (ROOT / "docs").glob("*.png")} <= shown


def commands() -> dict[str, list[str]]:
    """Every command of the documentation, with the pages that it is on."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for text in (*code_lines(page), *inline_code(page)):
            if text.startswith(("--config ", "--set-resources ", "--resources ")):
                text = f"snakemake {text}".replace("gpu=N", "gpu=1")
            if text.startswith(PROGRAMS):
                found.setdefault(" ".join(text.split()), []).append(by_name(page))
    return found


def of_program(program: str) -> list[str]:
    return [command for command in commands() if command.startswith(program)]


class Parsed(Exception):
    """Stops a command as soon as its arguments are accepted."""


def require_arguments(module: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Run a module's `main` until its parser has accepted the arguments."""
    parse, accepted = argparse.ArgumentParser.parse_args, []

    def stop(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> NoReturn:
        accepted.append(parse(parser, *given, **named))
        raise Parsed

    main = importlib.import_module(module).main
    with patch.object(argparse.ArgumentParser, "parse_args", stop), pytest.raises(Parsed):
        main(arguments)
    return accepted[0]


@pytest.mark.parametrize("command", of_program("python -m "))
def test_a_module_accepts_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.removeprefix("python -m "))
    if words[1:] == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            importlib.import_module(words[0]).main(["--help"])
        assert "usage: " in capsys.readouterr().out
        return
    if words[0] == "snakemake":
        get_argument_parser().parse_args(words[1:])
        return
    found = require_arguments(words[0], words[1:])
    if words[0] == "segtune.launch":
        inner = found.command
        assert inner[0] == "-m"
        found, words = require_arguments(inner[1], inner[2:]), inner[1:]
    if settings := getattr(found, "settings", None):
        stage = re.sub(r"^segtune\.|_page$|_list$", "", words[0])
        if stage == "train":
            parse_train(found.model, settings, found.execution)
        else:
            parse_section(SECTIONS[{"tile": "tiles"}.get(stage, stage)], settings)


@pytest.mark.parametrize("path", sorted((ROOT / "src/segtune").glob("[a-z]*.py")), ids=by_name)
def test_every_command_explains_itself(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"segtune.{path.stem}").main(["--help"])
    assert f"usage: segtune.{path.stem}" in capsys.readouterr().out


def config_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """config.yaml, changed by what a command line says."""
    values = yaml.safe_load((ROOT / "config.yaml").read_text("utf-8"))
    for file in arguments.configfile or []:
        change(values, yaml.safe_load((ROOT / file).read_text("utf-8")))
    for item in arguments.config or []:
        key, _, value = item.partition("=")
        change(values, {key: yaml.safe_load(value)})
    return values


def change(values: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            change(values[key], value)
        else:
            values[key] = value


def rule_names() -> set[str]:
    text = "\n".join([*RULES.values(), (ROOT / "Snakefile").read_text("utf-8")])
    return {
        *re.findall(r"^rule (\w+):", text, re.M),
        *re.findall(r"^use rule \w+ as (\w+)", text, re.M),
    }


@pytest.mark.parametrize("command", of_program("snakemake"))
def test_a_snakemake_command_names_what_exists(command: str) -> None:
    arguments = get_argument_parser().parse_args(shlex.split(command)[1:])
    assert set(arguments.targets) <= rule_names()
    assert all((ROOT / str(file)).exists() for file in arguments.configfile or [])
    profile = arguments.workflow_profile
    assert profile is None or (ROOT / str(profile) / "profile.yaml").exists()
    for item in arguments.set_resources or {}:
        assert item.partition(":")[0] in rule_names()
    parse_config(config_of(arguments))


@pytest.mark.parametrize(
    "command",
    [
        "snakemake --cores all --resources gpu=2 --configfile presets/2x24gb.yaml "
        "--config export=path/to/export.zip",
        "snakemake --cores all --resources gpu=2 "
        '--config "train={epochs: 40, learning_rate: 5e-5}"',
        "snakemake --cores all -- validate_page",
        "snakemake --cores all --resources gpu=2 -- learning_curve_page",
        "snakemake --cores all --resources gpu=1 -- probe",
    ],
)
def test_a_documented_command_shows_its_plan(command: str, tmp_path: Path) -> None:
    assert command in commands()
    words = shlex.split(command.replace("presets/", f"{ROOT}/presets/"))[1:]
    export = f"export={ROOT / 'data/demo'}"
    words = [word for word in words if not word.startswith("export=")]
    place = words.index("--config") + 1 if "--config" in words else None
    words = (
        ["--config", export, *words] if place is None else [*words[:place], export, *words[place:]]
    )
    run = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", *words]
    answer = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.search(r"^total +\d+$", answer.stdout + answer.stderr, re.M)


@pytest.mark.parametrize("command", of_program("make "))
def test_a_make_target_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    assert set(command.split()[1:]) <= targets


@pytest.mark.parametrize("command", of_program("pytest "))
def test_a_pytest_command_finds_tests(command: str) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-m", default="")
    parser.add_argument("-k", default="")
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("tests")])
    found = parser.parse_args(shlex.split(command)[1:])
    places = [ROOT / path for path in found.paths]
    files = [f for place in places for f in (place.rglob("*.py") if place.is_dir() else [place])]
    text = "\n".join(file.read_text("utf-8") for file in files)
    assert re.search(rf"^def test_\w*{found.k}\w*\(", text, re.M)
    assert not found.m or f"@pytest.mark.{found.m}" in text


def settings_shown() -> list[tuple[str, str]]:
    """Pieces of configuration, such as `convert: {format: coco}`, inline and as blocks."""
    section = "|".join(SECTIONS)
    block = re.compile(rf"^ +((?:{section}):\n(?: {{8,}}.*\n)+)", re.M)
    found = []
    for page in PAGES:
        texts = [text for text in inline_code(page) if re.match(rf"(?:{section}): \{{", text)]
        texts += block.findall(page.read_text("utf-8"))
        found += [(by_name(page), text) for text in texts]
    return found


@pytest.mark.parametrize(("page", "text"), settings_shown())
def test_a_shown_setting_is_accepted(page: str, text: str) -> None:
    (section, values), *_ = yaml.safe_load(text).items()
    if "..." in text or "…" in text:
        assert values.keys() <= SECTIONS[section].model_fields.keys()
    else:
        parse_config({"export": "data/demo", section: values})


def test_a_setting_that_is_named_exists() -> None:
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for text in inline_code(page):
            named = re.fullmatch(rf"({'|'.join(SECTIONS)})\.(\w+)(?:\.[\w.<>]+)?", text)
            if named and named[2] not in ("json", "jsonl", "html"):
                assert named[2] in SECTIONS[named[1]].model_fields, (page.name, text)


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("setting of `train` ", TrainSettings),
        ("setting of `train.lora.<component>` ", LoraSettings),
    ],
)
def test_tables_of_settings_name_settings(heading: str, section: type[BaseModel]) -> None:
    rows = table(ROOT / "docs/training.md", heading)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert len(named) >= 5
    assert named <= section.model_fields.keys()


def test_formats_are_those_that_can_be_chosen() -> None:
    rows = table(ROOT / "docs/formats-and-prompts.md", "`format` ")
    choices = {row[0].strip("`") for row in rows} | {"auto"}
    field = SECTIONS["convert"].model_fields["format"]
    assert choices == set(field.annotation.__args__)  # type: ignore[union-attr]


def test_the_changelog_lists_what_was_renamed() -> None:
    rows = table(ROOT / "CHANGELOG.md", "section ")
    last = [[re.findall(r"\w+", cell)[-1] for cell in row[1:]] for row in rows]
    assert dict(last) == RENAMED | {old: new for (_, old), new in RENAMED_VALUES.items()}


def declared_outputs() -> set[str]:
    """The files that rules make; what they declare may be a link in `finished/`."""
    found = {path for text in RULES.values() for path in re.findall(r'"<results>/([^"]+)"', text)}
    return {path.replace("finished/", "") for path in found}


def undeclared_outputs() -> set[str]:
    """What comments of the rules name without declaring it."""
    lines = [line for text in RULES.values() for line in text.splitlines() if line.startswith("#")]
    return {path.rstrip(".,") for line in lines for path in re.findall(r"<results>/(\S+)", line)}


def documented_outputs() -> list[str]:
    rows = table(ROOT / "docs/outputs.md", "file below `results/`")
    return [path for row in rows for path in re.findall(r"`([^`]+)`", row[0])]


def documented_as(output: str) -> list[str]:
    """The documented paths that a declared one, or a folder above it, may be."""
    parts = output.split("/")
    places = [output, f"{output}/"] + ["/".join(parts[:n]) + "/" for n in range(1, len(parts))]
    expressions = [re.sub(r"\\{\w+\\}", "[^/_]+", re.escape(place)) for place in places]
    return [d for d in documented_outputs() if any(re.fullmatch(e, d) for e in expressions)]


def test_every_documented_file_is_made_by_a_rule() -> None:
    made = {path for output in declared_outputs() for path in documented_as(output)}
    assert set(documented_outputs()) - made - undeclared_outputs() == set()


@pytest.mark.parametrize("output", sorted(declared_outputs()))
def test_every_file_is_documented(output: str) -> None:
    assert documented_as(output)


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        for text in inline_code(page):
            if text.startswith(TOP_LEVEL) and not text.startswith("results/"):
                path = text.split("::")[0]
                if not re.search(r"NAME|\*| ", path):
                    assert (ROOT / path).exists(), f"{page.name}: {path}"


@cache
def texts_in_sources() -> tuple[str, ...]:
    """Every string of the sources; what is filled in is "{}"."""
    found = []
    for path in [*(ROOT / "src").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "{}"
                        for part in node.values
                    )
                )
    return tuple(" ".join(text.split()) for text in found)


def messages() -> list[str]:
    rows = table(ROOT / "docs/troubleshooting.md", "message ")
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row[0])]


@pytest.mark.parametrize("message", messages())
def test_a_message_is_one_of_ours(message: str) -> None:
    if message == "LockException":
        assert issubclass(snakemake.exceptions.LockException, Exception)
        return
    kind, _, text = message.partition(": ")
    if kind.endswith("Error"):
        assert issubclass(getattr(errors, kind), errors.SegtuneError)
    else:
        text = message
    pieces = [piece.strip(" ;:.,") for piece in text.split("…") if piece.strip(" ;:.,")]
    assert pieces
    expression = re.compile(".*".join(map(re.escape, pieces)))
    texts = texts_in_sources()
    assert any(map(expression.search, texts)) or set(pieces) <= set(texts)
