"""
What these tests prove about the README: its file map is complete, its lines for the kernels run,
and the set-up it describes is the one that make does. (Links, flags, commands: test_docs.py.)
And about --help: it ends with commands that exist, and says of every flag what it does.
"""
import argparse
import importlib
import itertools
import re
import shlex
from pathlib import Path

import pytest
import torch

from comedian import run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_file_map_is_complete():
    section = README.split("## Read the code")[1].split("\n## ")[0]
    named = set(re.findall(r"[`(]([\w./]+)[`)]", section))
    code = ("*.py", "comedian/[!_]*.py", "csrc/*.cpp", "csrc/*.h")
    for path in itertools.chain.from_iterable(map(ROOT.glob, code)):
        name = path.relative_to(ROOT).as_posix()
        assert name in named or f"{path.parent.name}/" in named, f"{name} is not in the file map"
    for name in named:
        assert (ROOT / name).exists(), f"the file map names {name}, which is not there"


def test_kernel_example_runs():
    code = README.split("## Only the kernels")[1].split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)                 # the README's own lines
    assert names["merged"].shape == (2700, 17)
    assert (names["merged"].sum(1) > 0).all()
    assert len(names["token"]) == len(names["score"]) > 0
    assert isinstance(names["score"], torch.Tensor)


def test_requirements_are_those_of_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in ("requirements.txt", "requirements-dev.txt", "--no-deps SoccerNet==0.2.0",
                 "setup.py", "build_ext --inplace"):
        assert word in README and word in makefile


def test_every_command_of_the_papers_tables_parses():
    """docs/paper.md: as bash would expand it, every line is accepted; what it reads was written by
    a line above it; no two lines write to the same folder."""
    text, variables, written = (ROOT / "docs/paper.md").read_text(encoding="utf-8"), {}, set()
    lines = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).splitlines()
    for line in lines:
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[assigned[1]] = assigned[2]
            continue
        line = re.sub(r"\$(\w+)", lambda found: variables[found[1]], line)
        python, *argv = shlex.split(line)
        name = argv.pop(0)
        name = argv.pop(0) if name == "-m" else name.removesuffix(".py")
        args = vars(importlib.import_module(name).parse_args(argv))
        assert python == "python"
        for path in [args.get("init"), *(args.get("checkpoint") or [])]:
            other_seed = re.search(r"/(test|challenge)-\d/", path or "")
            if path and path.startswith("runs/") and not other_seed:
                assert path.removesuffix("/last.pt") in written, line
        if args.get("scores"):
            assert args["scores"] in written, line
        else:
            assert args["out"] not in written, line
            written.add(args["out"])
    assert len(lines) > 80 and {"runs/best/3", "runs/challenge/spots"} <= written


COMMANDS = ("stage1_spatial", "stage2_distill", "stage3_finetune", "infer", "comedian.prepare",
            "comedian.evaluate", "comedian.report")


class Found(Exception):
    """Carries the parser that a command would have parsed its flags with."""


@pytest.fixture(params=COMMANDS)
def parsers(request, monkeypatch):
    """(command, its parser, those of its subcommands)."""
    def parse_args(self, argv=None):
        raise Found(self)

    monkeypatch.setenv("COLUMNS", "200")                   # no line is wrapped
    monkeypatch.setattr(run.Parser, "parse_args", parse_args)
    with pytest.raises(Found) as found:
        importlib.import_module(request.param).parse_args([])
    parser, = found.value.args
    inner = [action.choices for action in parser._actions
             if isinstance(action, argparse._SubParsersAction)]
    return request.param, parser, list(inner[0].values()) if inner else []


def test_help_ends_with_examples_that_exist(parsers):
    command, parser, subcommands = parsers
    text = parser.format_help()
    examples = text.split("\nexamples:\n")[1]
    assert text.endswith(f"{examples}") and parser.description
    called = f"-m {command} " if "." in command else f"{command}.py "
    assert examples.count(called) >= 2
    known = {flag for p in (parser, *subcommands) for flag in p._option_string_actions}
    for flag in set(re.findall(r" (--[a-z][\w-]*)", examples)) - {"--nproc-per-node"}:
        assert flag in known, flag


def test_help_says_of_every_flag_what_it_does(parsers):
    _, parser, subcommands = parsers
    for p in (parser, *subcommands):
        for action in p._actions:
            for part in getattr(action, "_choices_actions", [action]):     # subcommands have theirs
                assert part.help, part.dest
        text = p.format_help()
        assert "default: None" not in text and "default: False" not in text
