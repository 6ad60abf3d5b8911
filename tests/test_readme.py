"""
What these tests prove about the README: its file map is complete, every flag that its commands name
exists, its five lines for the kernels run, and the set-up it describes is the one that make does.
"""
import itertools
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted(path.relative_to(ROOT).as_posix()
                 for path in [*ROOT.glob("*.py"), *ROOT.glob("comedian/*.py")]
                 if "add_argument" in path.read_text(encoding="utf-8"))


def test_file_map_is_complete():
    section = README.split("## Reading order")[1].split("\n## ")[0]
    named = set(re.findall(r"`([\w./]+)`", section))
    code = ("*.py", "comedian/[!_]*.py", "csrc/*.cpp", "csrc/*.h")
    for path in itertools.chain.from_iterable(map(ROOT.glob, code)):
        name = path.relative_to(ROOT).as_posix()
        assert name in named or f"{path.parent.name}/" in named, f"{name} is not in the file map"
    for name in named:
        assert (ROOT / name).exists(), f"the file map names {name}, which is not there"


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_name_real_flags(script):
    """Every `--flag` on a README line that calls `script` is one of its options."""
    source = (ROOT / script).read_text(encoding="utf-8")
    called = script if "/" not in script else "-m " + script[:-3].replace("/", ".")
    for line in re.findall(rf"python {called}([^`\n]*)", README):
        for flag in re.findall(r"(--[a-z][\w-]*)", line.split("#")[0]):
            assert f'"{flag}"' in source, f"README calls {script} with {flag}"


def test_every_flag_in_the_text_exists():
    helps = "".join((ROOT / script).read_text(encoding="utf-8") for script in SCRIPTS)
    for flag in set(re.findall(r"`(--[\w-]+)", README)):
        assert f'"{flag}"' in helps, f"the README speaks of {flag}"


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
