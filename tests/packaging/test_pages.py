"""What the pages name is there: links, headings, commands and their options, modules, targets of make, files."""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from pathlib import Path

import pytest

from convserve import __main__ as convserve
from convtrain.cli.parser import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "examples/node/*.md", "protos/*.md")
    for page in sorted(ROOT.glob(pattern))
]
FOLDERS = ("benchmarks", "deploy", "docs", "examples", "protos", "scripts", "service", "tests", "training")
FOREIGN = {"--build-arg", "--gpus", "--model_base_path"}
"""Options of other programs that sentences name."""


@functools.cache
def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command of ours, such as `convserve serve`."""
    serving = argparse.ArgumentParser()
    added = serving.add_subparsers()
    for command in convserve._COMMANDS.values():
        command.add_parser(added)
    return {
        f"{program} {name}": command
        for program, parser in (("convserve", serving), ("convtrain", make_parser()))
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, command in action.choices.items()
    }


@functools.cache
def sources() -> set[str]:
    """The paths of all files and folders that belong to the repository, from its root."""
    return {f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*")}


def blocks(text: str) -> list[str]:
    """The lines of all blocks of code; those that a backslash continues are put together, comments taken off."""
    found = "\n".join(re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    return [line.partition(" #")[0].strip() for line in found.splitlines()]


def spans(text: str) -> list[str]:
    """Code within sentences."""
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def headings(page: Path) -> set[str]:
    """What a link may name after `#`: the headings, as GitHub writes them there."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(params=PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def page(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_links_lead_somewhere(page: Path) -> None:
    """To something in this repository and, where one is named, a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert "://" in target or file.exists(), target
        assert "://" in target or not heading or heading in headings(file), target


def test_commands_are_understood(page: Path) -> None:
    """A command line in a block, by the parser that would read it; an option within a sentence, by its command's."""
    ours = commands()
    for line in blocks(page.read_text()):
        words = shlex.split(line.partition(" >")[0]) if line.startswith(("convserve ", "convtrain ")) else []
        if words:
            ours[" ".join(words[:2])].parse_args(words[2:])  # says what is wrong, and ends the process
    every = {flag for command in ours.values() for flag in command._option_string_actions}
    for span in spans(page.read_text()):
        flags = set(re.findall(r"(?<!\S)--[\w-]+", span))
        if re.match(r"(convserve|convtrain) [a-z]", span):
            assert flags <= set(ours[" ".join(span.split()[:2])]._option_string_actions), span
        elif span.startswith("--"):
            assert flags <= every | FOREIGN, span


def test_files_modules_and_targets_exist(page: Path) -> None:
    """Sources by the end of their path, modules with the options they are given, and what make is asked for."""
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for span in spans(text):
        if re.fullmatch(rf"[\w./-]+\.(py|sh)|({'|'.join(FOLDERS)})/[\w./-]+", span):
            assert any(path.endswith(f"/{span.rstrip('/')}") for path in sources()), span
    for code in (*spans(text), *blocks(text)):
        for module, arguments in re.findall(r"python -m ((?:benchmarks|scripts)[\w.]*)([^&]*)", code):
            file = ROOT / module.replace(".", "/")
            source = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
            assert all(f'"{flag}"' in source for flag in re.findall(r"--[\w-]+", arguments)), code
        for target in re.findall(r"^make ([a-z-]+)", code):
            assert target in targets, code
