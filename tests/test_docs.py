"""
What these tests prove about the pages (README.md, CONTRIBUTING.md, docs/*.md) and about --help:
  1. links lead to files and headings that exist, file names in backticks to files; the README's map
     of the files is complete
  2. commands are accepted by the parser of the script they call, and flags in the text exist; every
     flag has a help text
  3. functions and tests that are named beside a file stand in that file
  4. a paragraph that links to benchmarks/NAME.txt has its numbers from there
  5. pictures are small and in use; mathematics is such as GitHub shows
  6. docs/differences.md names every default that is not the paper's base setting
  7. the example of the kernels runs; slow: docs/extend.md works as it stands, docs/figures.py draws
     every picture
"""
import argparse
import collections
import importlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from comedian import ops, soccernet
from model import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md",
         *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
COMMANDS = ["stage1_spatial", "stage2_distill", "stage3_finetune", "infer", "comedian.prepare",
            "comedian.evaluate", "comedian.report", "comedian.share"]
FENCE = re.compile(r"^```(\w*) ?(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
each_page = pytest.mark.parametrize("name", PAGES)


def page(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, kind):
    """The code blocks of one language: pairs (what stands after the language, content)."""
    return [(title, body) for language, title, body in FENCE.findall(page(name))
            if language == kind]


def prose(name):
    """A page without its code blocks."""
    return FENCE.sub("", page(name))


def paragraphs(name):
    """The paragraphs of a page as single lines; table rows each alone."""
    for part in re.split(r"\n\s*\n", prose(name)):
        yield from part.splitlines() if part.lstrip().startswith("|") else [" ".join(part.split())]


def spans(name):
    """What stands in single backticks, line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(name))]


def links(name):
    """(text, target) of every link and picture of a page."""
    text = re.sub(r"`[^`]*`", lambda code: code[0].replace("[", " "), prose(name))
    return (re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text)
            + [("picture", target) for target in re.findall(r'<img src="([^"]+)"', text)])


def anchors(path):
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ------------------------------------------------------------------ 1. links and files
@each_page
def test_links_exist(name):
    for text, target in links(name):
        path, _, anchor = target.partition("#")
        if not re.match(r"https?://|\.\./\.\./", target):   # GitHub: pages of the repository
            file = (ROOT / name).parent / path if path else ROOT / name
            assert file.exists(), f"[{text}]({target}): no such file"
            assert not anchor or anchor in anchors(file), f"[{text}]({target}): no such heading"


@each_page
def test_file_names_exist(name):
    """Of code, pages, files in our folders. Others (last.pt, classes.txt) are made by runs."""
    written_here = {title for title, _ in blocks(name, "python")}
    for span in spans(name):
        if (re.fullmatch(r"[\w.-]+\.(py|cpp|h|sh|md|toml|cff)", span)
                or re.fullmatch(r"(comedian|csrc|docs|tests|benchmarks)/[\w./-]*", span)):
            places = (ROOT, (ROOT / name).parent, ROOT / "comedian")
            assert any((place / span).exists() for place in places) or span in written_here, span


def test_pages_named_in_code_exist():
    """In help texts and messages, with the headings: \"README, 'Weights and results'\"."""
    found = []
    for path in [ROOT / "Makefile", *(path for folder in (".", "comedian", "docs", "benchmarks")
                                      for path in ROOT.glob(f"{folder}/*.py"))]:
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))    # joined strings
        found += re.findall(r"(README|docs/[\w-]+\.md)(?:, ['\"]([^'\"]+)['\"])?", text)
    for name, heading in found:
        file = ROOT / name.replace("README", "README.md")
        assert file.exists(), name
        assert not heading or heading.lower().replace(" ", "-") in anchors(file), heading
    assert len(found) > 5 and any(heading for _, heading in found)


def test_the_readme_lists_every_file():
    named = set(re.findall(r"[`(]([\w./]+)[`)]",
                           page("README.md").split("## Read the code")[1].split("\n## ")[0]))
    code = {path.relative_to(ROOT).as_posix() for pattern in
            ("*.py", "comedian/[!_]*.py", "csrc/*.cpp", "csrc/*.h") for path in ROOT.glob(pattern)}
    assert {name for name in code if not named & {name, f"{name.split('/')[0]}/"}} == set()
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_minutes_of_reading_are_lines_by_25():
    rows = re.findall(r"^\| (\[.*?\) *)\| *(\d+) *\|", page("README.md"), re.MULTILINE)
    for files, minutes in rows:
        n_lines = sum(page(file).count("\n") for file in re.findall(r"\]\(([\w/.]+\.\w+)\)", files))
        assert abs(int(minutes) - n_lines / 25) <= max(1, n_lines / 125), files
    assert len(rows) > 9


# ------------------------------------------------------------------ 2. commands
def figures():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs/figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def module_of(words):
    """The module whose parse_args takes a command's arguments, and these; None for what is no
    script of this project that has one. words: those after `python`."""
    if words[0] == "-m":
        if not words[1].startswith("comedian"):
            assert words[1] in ("pytest", "venv", "pip", "ruff"), words
            return None, []
        module, arguments = importlib.import_module(words[1]), words[2:]
        return (module if hasattr(module, "parse_args") else None), arguments
    if words[0].startswith("/tmp/"):                       # made in the page itself
        return None, []
    path = ROOT / words[0]
    assert path.is_file(), f"{words[0]}: no such script"
    if path.parent == ROOT or words[0] == "docs/figures.py":
        module = figures() if path.parent != ROOT else importlib.import_module(path.stem)
        return module, words[1:]
    for flag in [word for word in words if word.startswith("--")]:
        assert f'"{flag}"' in page(words[0]), f"{words[0]} has no {flag}"
    return None, []


def python_commands(text):
    """The words after `python` or after torchrun's own flags, of every line that starts with one;
    shell variables are replaced by what was assigned to them above."""
    variables = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"\$(\w+)", lambda found: variables.get(found[1], found[0]), line)
        if assigned := re.fullmatch(r'(\w+)="(.*)"', line):
            variables[assigned[1]] = assigned[2]
            continue
        words = shlex.split(line, comments=True)
        if "&&" in words:
            words = words[:words.index("&&")]
        if words[:1] == ["python"] and not words[1].startswith("setup.py"):
            yield words[1:]
        elif words[:1] == ["torchrun"]:
            script = [i for i, word in enumerate(words) if word.endswith(".py")]
            yield from [words[script[0]:]] if script else []


def page_commands(name):
    """The bash blocks of a page. docs/paper.md has functions and loops: bash itself runs it, with a
    `python` that prints its arguments."""
    text = "".join(body for _, body in blocks(name, "bash"))
    if name != "docs/paper.md":
        return text
    return subprocess.run(["bash", "-euc", f'python() {{ echo "python ${{*@Q}}"; }}\n{text}'],
                          check=True, capture_output=True, text=True).stdout


def parsers(module):
    """The argparse parsers that a module's parse_args builds: the whole, and its subcommands'."""
    built = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setenv("COLUMNS", "200")                     # no line is wrapped
        patch.setattr(argparse.ArgumentParser, "parse_args",
                      lambda parser, *_: built.append(parser) or sys.exit())
        module.parse_args([])
    return built + [parser for action in built[0]._actions
                    if isinstance(action, argparse._SubParsersAction)
                    for parser in action.choices.values()]


@pytest.mark.parametrize("name", [*PAGES, *COMMANDS])
def test_commands_parse(name, capsys):
    """Those of a page, and the examples of a --help."""
    if name in PAGES:
        text = page_commands(name)
    else:
        text = parsers(importlib.import_module(name))[0].epilog.removeprefix("examples:\n")
        assert text.count(name.rpartition(".")[2]) >= 2
    for words in python_commands(text):
        module, arguments = module_of(words)
        known = ["vivit_micro" if word == "conv_micro" else word for word in arguments]
        known = ["cpu" if word.startswith("cuda") else word for word in known]
        try:
            assert module is None or module.parse_args(known)
        except SystemExit:
            pytest.fail(f"python {shlex.join(words)}: {capsys.readouterr().err}")


def test_the_papers_commands_run_in_order():
    """And no two of docs/paper.md write to the same folder."""
    written, commands = set(), list(python_commands(page_commands("docs/paper.md")))
    assert len(commands) == 82                             # nothing is lost in loops and functions
    for words in commands:
        module, arguments = module_of(words)
        args = vars(module.parse_args(arguments))
        read = [path for path in [args.get("init"), *(args.get("checkpoint") or [])]
                if (path or "").startswith("runs/")
                and not re.search(r"/(test|challenge)-\d/", path)]             # another seed's
        assert {path.removesuffix("/last.pt") for path in read} <= written, words
        if args.get("scores"):
            assert args["scores"] in written, words
        else:
            assert args["out"] not in written, words
            written.add(args["out"])
    assert {"runs/best/3", "runs/challenge/spots"} <= written


def test_the_demo_without_make_is_the_demo():
    """docs/demo.sh has the commands of `make demo`, but for two pictures."""
    plan = subprocess.run(["make", "-nB", "demo", "SEED=0"], cwd=ROOT, check=True, text=True,
                          capture_output=True).stdout
    made, by_hand = ([(module.__name__, vars(module.parse_args(arguments)))
                      for module, arguments in map(module_of, python_commands(text)) if module]
                     for text in (re.sub(r" > .*|^\.venv/bin/", "", plan, flags=re.MULTILINE),
                                  page("docs/demo.sh")))
    pictures = ("curves", "timeline")
    assert by_hand == [one for one in made if one[1].get("picture") not in pictures]
    assert len(by_hand) == 9


@each_page
def test_flags_exist(name):
    """A command in a sentence may leave out what is required."""
    helps = "".join(path.read_text(encoding="utf-8") for path in
                    (*ROOT.glob("*.py"), *ROOT.glob("comedian/*.py"), ROOT / "docs/figures.py",
                     ROOT / "benchmarks/ablation.py"))
    for span in spans(name):
        for flag in re.findall(r"^--[a-z][\w-]*", span):
            assert f'"{flag}"' in helps or f'"{flag.replace("--no-", "--")}"' in helps, flag
        for words in python_commands(span):
            module, arguments = module_of(words)
            if module:
                flags = {flag for parser in parsers(module)
                         for flag in parser._option_string_actions}
                assert {word for word in arguments if word.startswith("--")} <= flags, span


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_help_text(command):
    for parser in parsers(importlib.import_module(command)):
        for action in parser._actions:
            for part in getattr(action, "_choices_actions", [action]):     # subcommands have theirs
                assert part.help and part.help.strip(), (parser.prog, part.dest)
        assert not re.search(r"\(default:\s+(None|False)\)", parser.format_help()), parser.prog


@each_page
def test_make_targets_exist(name):
    rules = " ".join(re.findall(r"^([\w-][\w -]*):", page("Makefile"), re.MULTILINE)).split()
    text = "\n".join([*spans(name), *(body for _, body in blocks(name, "bash"))])
    assert set(re.findall(r"^make ([a-z0-9-]+)", text, re.MULTILINE)) <= set(rules)


# ------------------------------------------------------------------ 3. functions and tests
NAMED = re.compile(r"((?:`[A-Za-z_][\w.]*`[^`\[\].:;|]*)+)\bin \[([^\]]+)\]\(([^)#]+)\)")


@each_page
def test_named_functions_and_tests_exist(name):
    """`name`, `name` in [file](file): each is defined there. And a `test_name` is somewhere."""
    for named, text, target in NAMED.findall("\n".join(paragraphs(name))):
        source = ((ROOT / name).parent / target).read_text(encoding="utf-8")
        for symbol in re.findall(r"`([\w.]+)`", named):
            last = symbol.rsplit(".", 1)[-1]
            assert re.search(rf"^\s*(def|class) {last}\b|^{last}\b.*=", source, re.MULTILINE), (
                f"{symbol} is not in {text}")
    tests = set(re.findall(r"(?:def|class) (test_\w+|Test\w+)", "".join(
        path.read_text(encoding="utf-8") for path in ROOT.glob("tests/test_*.py"))))
    assert {span for span in spans(name) if re.fullmatch(r"test_\w+|Test[A-Z]\w+", span)} <= tests


def test_the_method_proves_its_equations():
    """A function and a test follow each; a test that a stage names for an equation is there."""
    text = page("docs/method.md")
    for number in range(1, 8):
        rest = text[text.index(f"\\qquad ({number})"):].split("\n#")[0]
        assert re.search(r"Code:\s+`\w+`.*Tests?:\s+`test_\w+`", rest, re.DOTALL), number
    for stage in COMMANDS[:3]:
        for test in re.findall(r"test_equation\w+", page(f"{stage}.py")):
            assert f"`{test}`" in text or "batch" in test  # the demo's way


# ------------------------------------------------------------------ 4. numbers
NUMBER = re.compile(r"(?<![\w.^])\d[\d,]*\d(?:\.\d+)?(?![\w]|\.\d)|(?<![\w.^])\d\.\d+(?![\w]|\.\d)")


def numbers(text):
    return {number.replace(",", "") for number in NUMBER.findall(text)}


def citing(name):
    """(text, [files]) of every paragraph that links to a file in benchmarks/, or to a page as
    "table in ..."; a table belongs to the paragraph above it."""
    parts = re.split(r"\n\s*\n", prose(name))
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        files = [target for text, target in re.findall(r"\[([^\]]*)\]\(([^)#\s]+)[^)]*\)", part)
                 if target.endswith(".txt") or text.startswith("table in ")]
        if files:
            table = "\n" + after if after.lstrip().startswith("|") else ""
            yield part + table, [(ROOT / name).parent / file for file in files]


@each_page
def test_numbers_equal_the_cited_file(name):
    """All with a decimal point, or of three digits and more; code and links are not looked at."""
    for text, files in citing(name):
        text = re.sub(r"`[^`]*`|\]\([^)]*\)|\$[^$]*\$", " ", text)
        there = set().union(*(numbers(file.read_text(encoding="utf-8")) for file in files))
        said = {number for number in numbers(text) if "." in number or len(number) > 2}
        assert said <= there, (sorted(said - there), [file.name for file in files])


def test_a_row_of_the_tables_has_the_numbers_of_its_own_line():
    """docs/ablation.md: a row with "39.2 ± 3.5" has only numbers of the lines of that name, in the
    files that its table cites (and of the probe, which has no such lines)."""
    rows = 0
    for text, files in citing("docs/ablation.md"):
        lines, others = collections.defaultdict(set), set()
        for file in files:
            content = file.read_text(encoding="utf-8")
            scored = re.findall(r"^(.+?) +(\d+\.\d) \+- (\d+\.\d)(  .*)", content, re.MULTILINE)
            for name, mean, deviation, rest in scored:
                lines[name] |= {(mean, deviation)} | numbers(rest)
            others |= set() if scored else numbers(content)
        for row in re.findall(r"^\|[^|]*(\|.*±.*)", text, re.MULTILINE):
            pairs = re.findall(r"(\d+\.\d) ± (\d+\.\d)", row)
            own = set().union(*(have for have in lines.values() if have & {*pairs}))
            said = {number for number in numbers(row) if "." in number} - {*sum(pairs, ())}
            assert {*pairs} <= own and said <= own | others, (row, said - own - others)
            rows += 1
    assert rows > 40


def test_an_interval_stands_in_a_file_that_its_section_cites():
    """docs/ablation.md: with its signs, or all turned round, "3.0 behind". And the page says how
    many it has."""
    interval, n = re.compile(r"([+-])(\d+\.\d) to ([+-])(\d+\.\d)"), 0
    for section in re.split(r"\n(?=## )", page("docs/ablation.md")):
        said = interval.findall(" ".join(section.split()))
        there = {found for file in re.findall(r"\]\(\.\./(benchmarks/[\w-]+\.txt)\)", section)
                 for found in interval.findall((ROOT / file).read_text(encoding="utf-8"))}
        turned = {tuple(part.translate(str.maketrans("+-", "-+")) for part in (s2, high, s1, low))
                  for s1, low, s2, high in there}
        if not section.startswith("## On drawn matches"):  # whose files an older commit has
            assert {*said} <= there | turned, ({*said} - there - turned, section[:40])
        n += len(said)
    assert f"among the {n} on this page" in page("docs/ablation.md")


def test_the_second_run_of_table_5_has_the_numbers_of_the_first():
    """Seed by seed, on both sets of matches: it was trained anew."""
    def lines(text):
        return {name: values.split(", ") for name, values in re.findall(
            r"^(\S.*?) +[\d.]+ \+- [\d.]+  \((.*?)\)", text, re.MULTILINE)}

    first, second = (page(f"benchmarks/ablation-table5{name}.txt") for name in ("", "-more")), (
        page("benchmarks/ablation-table5-again.txt").split("\nTable 5")[1:])
    for once, again in zip(first, second, strict=True):
        once, again = lines(once), lines(again)
        assert len(again) >= 7 and again == {name: once[name][:3] for name in again}


def test_every_benchmark_output_is_cited():
    """Else nobody reads it, and the test above does not look."""
    text = "".join(map(page, PAGES))
    cited = {file.name for name in PAGES for _, files in citing(name) for file in files}
    assert len(cited) > 8
    assert {file.name for file in ROOT.glob("benchmarks/*.txt")} <= {
        *cited, *re.findall(r"`benchmarks/([\w-]+\.txt)`", text)}


# ------------------------------------------------------------------ 5. pictures, mathematics
def test_pictures_are_small_and_in_use():
    used = {((ROOT / name).parent / target).resolve() for name in PAGES
            for _, target in links(name) if target.endswith(".png")}
    for picture in ROOT.glob("docs/*.png"):
        assert picture in used, f"{picture.name} is on no page"
        assert picture.stat().st_size < 200_000, picture.name


@each_page
def test_mathematics_renders_on_github(name):
    """No macro that it forbids, no backslash that Markdown eats; dollars in pairs, not in words."""
    assert "\\operatorname" not in page(name)
    for paragraph in paragraphs(name):
        text = re.sub(r"`[^`]*`", "", paragraph)
        assert text.count("$") % 2 == 0, paragraph
        for before, inside, after in re.findall(r"(.?)\$([^$]+)\$(.?)", text):
            assert inside == inside.strip() and not re.search(r"\w", before + after), inside
            assert not re.search(r"\\[^\w\s]|\|", inside), inside


# ------------------------------------------------------------------ 6. differences from the paper
# The base setting for ViViT-T: where the paper has it, and what it gives to which flag. --stride 0
# is half a window.
INFERENCE = {"4.1": dict(stride=0, merge="max", nms="hard", nms_window=5, ignore=6)}
BASE = {
    "stage1_spatial": {
        "3.2": dict(negatives="queue"), "4.1": dict(halves_per_batch=0, weight_decay=0.05),
        "4.2": dict(model="vivit_tiny"), "A.2": dict(lr=5e-4, warmup_epochs=10),
        "A.3": dict(tau=0.1, queue=65536, epochs=100, batch=1024)},
    "stage2_distill": {
        "3.3": dict(bank="complete", align="middle"), "4.2": dict(model="vivit_tiny"),
        "4.1": dict(window=32, windows_per_half=75, sampling="random", temporal_depth=4,
                    features_fps=1, weight_decay=0.05),
        "Tab. 4": dict(mask=0), "A.2": dict(lr=2e-3, warmup_epochs=10),
        "A.4": dict(tau=0.1, tau_m=0.07, lam=0.5, batch=64)},
    "stage3_finetune": {
        "4.1": dict(windows_per_half=50, temporal_depth=4, weight_decay=0.05) | INFERENCE["4.1"],
        "4.2": dict(model="vivit_tiny"), "Tab. 4": dict(mask=0), "A.2": dict(lr=5e-4),
        "A.5": dict(window=32, batch=128, head_epochs=30, epochs=20, head_phase="head", mixup=0.1,
                    color=[0.4, 0.4, 0.4, 0.0])},
    "infer": INFERENCE}


def defaults(name):
    """{flag: value} of a script for ViViT-T; those that follow from others filled in."""
    module, best = importlib.import_module(name), MODELS["vivit_tiny"]
    args = module.parse_args(["--data", "x", *["--checkpoint", "x"] * (name == "infer")])
    if name == "stage3_finetune":
        _, args = module.configure(args, None, None)
    given = vars(args)
    follow = {"temporal_depth": best.temporal_depth, "ignore": ops.default_ignore(
        best.window_tokens)}
    return given | {flag: value for flag, value in follow.items() if given.get(flag, 0) is None}


def section(name, title):
    """A page from a heading to the next."""
    return page(name).split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_what_differs_from_the_base_setting_is_said():
    """Every flag has the value of the paper's base setting, or a row with both values, or, if the
    paper does not know it, a place among those."""
    rows = {flag: (base, here) for base, here, flag in re.findall(
        r"^\| [^|]* \| ([^|]*) \| ([^|]*) \| [^|]* \| `(--[\w-]+)` \|$",
        section("docs/differences.md", "The paper's best, not its base setting"), re.MULTILINE)}
    differ, unknown = set(), set()
    for name, places in BASE.items():
        base = {flag: value for values in places.values() for flag, value in values.items()}
        own = {f"--{flag.replace('_', '-')}": (value, base.get(flag))
               for flag, value in defaults(name).items()}
        assert len(own.keys() & {f"--{flag.replace('_', '-')}" for flag in base}) == len(base)
        unknown |= {flag for flag, (_, value) in own.items() if value is None}
        for flag, (value, of_paper) in own.items():
            if of_paper is not None and value != of_paper:
                for said, wanted in zip(rows[flag], (of_paper, value), strict=True):
                    assert str(wanted) in re.findall(r"[\w.]+", said), (name, flag, said, wanted)
                differ.add(flag)
    assert differ == rows.keys()
    listed = section("docs/differences.md", "Flags that are not in the paper")
    assert set(re.findall(r"`(--[\w-]+)`", listed)) == unknown


# ------------------------------------------------------------------ 7. the pages at work
def test_the_example_of_the_kernels_runs():
    (_, code), = blocks("docs/kernels.md", "python")
    names = {}
    exec(code, names)                 # the page's own lines
    assert names["merged"].shape == (2700, 17) and (names["merged"].sum(1) > 0).all()
    assert len(names["half"]) == len(names["score"]) > 0


def shell(body, cwd):
    """Runs bash lines with this Python, in one thread; what they print."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                   "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(["bash", "-ec", body], cwd=cwd, env=environment, text=True,
                          capture_output=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def changed(text, diff):
    """A file's text after a diff without line numbers, whose lines must stand in it once; comments
    at their ends may be others."""
    lines = diff.splitlines()
    old, new = ([line[1:] for line in lines if line[:1] in (" ", mark)] for mark in "-+")
    found = re.findall("^" + r"(?: *#.*)?\n".join(map(re.escape, old)) + "(?: *#.*)?$", text,
                       re.MULTILINE)
    assert len(found) == 1, f"not there once:\n{diff}"
    return text.replace(found[0], "\n".join(new))


def test_the_changes_of_extend_fit_the_code():
    texts = {}
    for title, diff in blocks("docs/extend.md", "diff"):
        texts[title] = changed(texts.get(title) or page(title), diff)
        compile(texts[title], title, "exec")
    assert texts["model.py"].count("conv") > 3 and "conv" in texts["comedian/checkpoint.py"]


@pytest.mark.slow
def test_extend_works_as_it_stands(tmp_path):
    """In a copy of the code, every block of the page in its order; /tmp is another folder."""
    code, videos, printed = tmp_path / "code", tmp_path / "own/videos/cup/final", ""
    shutil.copytree(ROOT, code, ignore=shutil.ignore_patterns(".*", "data", "runs"))
    for language, title, body in FENCE.findall(re.sub(r"/tmp(?=/(few|own)\b)", str(tmp_path),
                                                      page("docs/extend.md"))):
        if language == "python":
            Path(title).write_text(body)
        elif language == "diff":
            (code / title).write_text(changed((code / title).read_text(), body))
        elif language == "bash":
            printed += shell(body, code)
        elif body.startswith("video,time,label"):          # of two videos
            videos.mkdir(parents=True)
            (tmp_path / "own/videos/labels.csv").write_text(body)
            for half in (1, 2):
                shutil.copy(ROOT / f"matches/004/{half}.mp4", videos)
    assert re.search(r"^Restart +\d", printed, re.MULTILINE)              # a row of the table
    assert "conv_micro, the spatial encoder of stage 1" in printed
    assert "like cup/final/1_48p" in printed
    spots = [*(tmp_path / "few/conv-spots").rglob("results_spotting.json")]
    assert len(spots) == 3 and all(json.loads(path.read_text())["predictions"] for path in spots)


@pytest.mark.slow
def test_every_picture_is_drawn(tmp_path):
    """From two test matches and runs of a few steps. What they spot is no good, so the truth itself
    is put there as spotted, with one false alarm."""
    data, runs, out = tmp_path / "data", tmp_path / "runs", tmp_path / "out"
    two, shared = tmp_path / "two.txt", "--batch 4 --window 32 --log-every 1"
    two.write_text("201\n202\n")
    shell(f"""
python -m comedian.prepare frames --videos matches --out {data} --size 48 48
python stage1_spatial.py --data {data} --model vivit_micro --batch 16 --steps 3 --queue 64 \
       --log-every 1 --out {runs}/stage1
python infer.py --data {data} --split matches/train.txt --checkpoint {runs}/stage1/last.pt \
       --features teacher --out {runs}/features
python stage2_distill.py --data {data} --split matches/train.txt --features {runs}/features \
       --features-name teacher --init {runs}/stage1/last.pt --steps 3 {shared} --out {runs}/stage2
python stage3_finetune.py --data {data} --split matches/train.txt --labels matches \
       --classes matches/classes.txt --init {runs}/stage2/last.pt --head-steps 2 --steps 2 \
       {shared} --out {runs}/stage3
python infer.py --data {data} --split {two} --labels matches --out {runs}/test \
       --checkpoint {runs}/stage3/last.pt
""", ROOT)
    classes = soccernet.read_classes(ROOT / "matches/classes.txt")
    for match, labels in soccernet.match_labels(ROOT / "matches", {"201", "202"})[0].items():
        spots = runs / "test" / match / "results_spotting.json"
        true = [(event.half, event.label, event.position_ms) for event in
                soccernet.read_labels(labels, classes)]
        true.append((true[0][0], classes.index("Goal"), 60_000))
        found = [{"half": str(half), "label": classes[label], "position": str(ms),
                  "gameTime": f"{half} - 00:00", "confidence": 0.9} for half, label, ms in true]
        spots.write_text(json.dumps(json.loads(spots.read_text()) | {"predictions": found}))
    shell(f"python docs/figures.py --run {runs} --data {data} --out {out}", ROOT)
    assert {path.stem for path in out.glob("*.png")} == set(figures().PICTURES)
    assert all(cv2.imread(str(path)).shape[1] == 1080 for path in out.glob("*.png"))
