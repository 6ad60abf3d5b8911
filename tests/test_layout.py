"""
What these tests prove about the whole, from its text:
  1. five files and a pantry: what stands at the top, who imports whom, and no circle
  2. the three stages read alike: the same headings in the same order, a short way to the loop
  3. losses, samplers, schedules and kernels name a test; every named one is there, and marked
     `proof`
  4. what must not be anywhere: state taken from a progress bar, paths of our machine
  5. what a start imports: the commands of the pantry no torch, before there is something to compute
"""
import ast
import os
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("stage1_spatial", "stage2_distill", "stage3_finetune")
FIVE = ("model", *STAGES, "infer")                        # the lesson
PANTRY = sorted(path.stem for path in (ROOT / "comedian").glob("*.py") if path.stem != "__init__")


def source(name):
    """The text of a module by its dotted name."""
    path = ROOT / (name.replace(".", "/") + ".py")
    return (path if path.exists() else ROOT / name / "__init__.py").read_text(encoding="utf-8")


def imports(name):
    """The modules of this project that a module imports, inside functions too."""
    own = {*FIVE, "setup", "comedian", *(f"comedian.{module}" for module in PANTRY)}
    package, found = name.rpartition(".")[0] or ("comedian" if name == "comedian" else ""), set()
    for node in ast.walk(ast.parse(source(name))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, (package if node.level else "", node.module)))
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
              and ast.unparse(node.func) in ("__import__", "importlib.import_module")):
            found.add(node.args[0].value)
    return (found & own) - {name}


# ------------------------------------------------------------------ 1. five files and a pantry
def test_the_top():
    assert {path.name for path in ROOT.glob("*.py")} == {
        *(f"{name}.py" for name in FIVE), "setup.py"}


def test_nothing_in_the_pantry_imports_a_file_above_it():
    assert len(PANTRY) > 9
    above = {name: sorted(imports(name) & {*FIVE, "setup"})
             for name in ("comedian", *(f"comedian.{module}" for module in PANTRY))}
    assert not any(above.values()), above


def test_among_the_five_all_import_the_model_and_stage_3_infers():
    arrows = {(name, other) for name in FIVE for other in imports(name) & set(FIVE)}
    assert arrows == {*((name, "model") for name in FIVE if name != "model"),
                      ("stage3_finetune", "infer")}


def test_no_circles():
    graph = {name: imports(name)
             for name in (*FIVE, "comedian", *(f"comedian.{module}" for module in PANTRY))}
    assert graph["comedian"] == set()                      # else every import of it were a circle
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_sees_what_it_must(monkeypatch):
    """The reader of imports itself: relative, inside a function, by name."""
    texts = {"comedian.a": "from . import ops\nfrom .run import number\n"
                           "def f():\n    import infer, numpy\n    __import__('model')\n",
             "comedian": "from comedian.video import sample"}
    monkeypatch.setitem(globals(), "source", texts.get)
    assert imports("comedian.a") == {"comedian", "comedian.ops", "comedian.run", "infer", "model"}
    assert imports("comedian") == {"comedian.video"}


# ------------------------------------------------------------------ 2. the stages read alike
def headings(name):
    """The headings of a script in order, of main too; without what a heading says after a colon.
    "views" of stage 1, which makes two, is the same as "view"."""
    found = re.findall(r"^(# ---|    # --|        # --)-* ([^-].*?)(?::.*|\s-+)?$", source(name),
                       re.MULTILINE)
    return [(mark.strip(), title.replace("views", "view")) for mark, title in found]


def test_the_stages_have_the_same_headings():
    """In the same order. Stage 3 alone has labels."""
    one, two, three = map(headings, STAGES)
    assert [title for _, title in one] == [
        "options", "sampler", "view", "the loss", "schedules", "run", "set-up", "data", "network",
        "train", "what this stage is about", "everything below is bookkeeping"]
    assert one == two
    three.remove(("# ---", "labels"))
    assert one == three


@pytest.mark.parametrize("name", STAGES)
def test_main_is_short_before_its_loop(name):
    """At most 40 lines of code, what a step reads among them."""
    text = source(name)
    main = next(node for node in ast.parse(text).body
                if isinstance(node, ast.FunctionDef) and node.name == "main")
    loop = next(node for node in main.body if isinstance(node, ast.For)
                and ast.unparse(node.target).strip("()").startswith("step"))
    nested = [node for node in main.body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in nested] == ["picks", "load"]
    lines = [line.strip() for line in text.splitlines()[main.lineno:loop.lineno - 1]]
    code = [line for line in lines if line and not line.startswith("#")]
    assert 20 < len(code) <= 56, f"{name}: {len(code)} lines"


# ------------------------------------------------------------------ 3. docstrings and flags
def promises(name):
    """Pairs (function, test) of a file: the tests that its docstrings say prove something."""
    nodes = [node for node in ast.walk(ast.parse(source(name)))
             if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))]
    return [(getattr(node, "name", name), test) for node in nodes
            for test in conftest.named_tests(ast.get_docstring(node) or "")]


def method(name):
    """The functions that must name their test: those between a stage's headings "sampler" and
    "run", which are samplers, views, losses and schedules; and kernels."""
    nodes = [node for node in ast.parse(source(name)).body
             if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    if name not in STAGES:
        return {"model": {"random_keep"}, "infer": {"window_starts"}}.get(name) or {
            node.name for node in nodes if "return kernels." in ast.unparse(node)}
    lines = source(name).splitlines()
    first, last = (next(i for i, line in enumerate(lines) if re.fullmatch(f"# -+ {title}", line))
                   for title in ("sampler", "run"))
    return {node.name for node in nodes if first < node.lineno < last} - {"labelled", "start_phase"}


@pytest.mark.parametrize("name", [*FIVE, "comedian.ops"])
def test_the_method_is_proved(name):
    assert len(method(name)) >= (5 if name in (*STAGES, "comedian.ops") else 1)
    assert method(name) <= {function for function, _ in promises(name)}


@pytest.mark.parametrize("name", [*FIVE, *(f"comedian.{module}" for module in PANTRY)])
def test_named_tests_exist(name):
    """What a stage names: in its own tests or those of all runs; what others name: anywhere."""
    files = ([ROOT / "tests" / f"test_{name.partition('_')[0]}.py", ROOT / "tests/test_runs.py"]
             if name in STAGES else (ROOT / "tests").glob("test_*.py"))
    there = {test for path in files
             for test in re.findall(r"(?:def|class) (\w+)", path.read_text(encoding="utf-8"))}
    assert [pair for pair in promises(name) if pair[1] not in there] == []


@pytest.mark.parametrize("file, name, group, marks", [
    ("test_stage1.py", "test_mistakes", None, ["proof"]),         # named by stages 1, 2 and 3
    ("test_runs.py", "test_mistakes", None, ["proof"]),
    ("test_video.py", "test_mistakes", None, []),
    ("test_stage3.py", "test_equation_1_and_2", None, []),        # stage 1 names this one
    ("test_ops.py", "test_by_hand", type("TestNMS", (), {}), ["proof"]),
    ("test_ops.py", "test_by_hand", type("TestEveryOperator", (), {}), [])])
def test_proofs_are_marked(file, name, group, marks):
    marked = []
    conftest.pytest_collection_modifyitems([SimpleNamespace(
        path=Path(file), originalname=name, cls=group, add_marker=marked.append)])
    assert marked == marks


# ------------------------------------------------------------------ 4. what must not be anywhere
def text_files():
    """The files outside tests/ that are text_files by hand, as paths and texts."""
    kinds = (".py", ".cpp", ".h", ".sh", ".md", ".txt", ".toml", ".html", "")
    return {path: path.read_text(encoding="utf-8")
            for folder in (".", "comedian", "csrc", "benchmarks", "docs")
            for path in (ROOT / folder).glob("*")
            if path.is_file() and path.suffix in kinds and path.name != ".git"}


def test_no_state_comes_from_a_progress_bar():
    """A bar stands still where there is no terminal."""
    state = r"\b\w*(?:bar|tqdm|progress)\.(?:n|total|last_print_n)\b"
    assert [(path.name, found) for path, text in text_files().items() if path.suffix == ".py"
            for found in re.findall(state, text)] == []


def test_no_path_of_our_machine():
    files = text_files()
    assert {"Makefile", "README.md", "bindings.cpp", "ops.py"} <= {path.name for path in files}
    assert [path for path, text in files.items()
            if re.search(r"\.\./shared|(?<![\w.])/work\b", text)] == []


# ------------------------------------------------------------------ 5. what a start imports
@pytest.mark.parametrize("module, flags, code", [
    ("evaluate", ["--help"], 0),
    ("evaluate", ["--sweep", "--scores", "nowhere", "--labels", "nowhere"], 2),
    ("report", ["--help"], 0), ("report", ["timeline", "nowhere"], 2),
    ("prepare", ["--help"], 0), ("prepare", ["pca", "--features", "nowhere"], 2)])
def test_help_and_refusals_import_no_torch(module, flags, code, tmp_path):
    """Nor what only draws or reads pictures: together they take most of two seconds."""
    script = f"""
import runpy, sys
sys.argv = ["comedian.{module}", *{flags!r}]
try:
    runpy.run_module("comedian.{module}", run_name="__main__")
except SystemExit as end:
    print(end.code or 0, {{"torch", "matplotlib", "cv2", "av", "model", "tqdm"}} & {{*sys.modules}})
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
                         text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ran.stdout.splitlines()[-1] == f"{code} set()", ran.stdout + ran.stderr
    assert ran.stderr.count("\n") == (1 if code else 0), ran.stderr


@pytest.mark.parametrize("command", [
    "stage1_spatial.py", "stage2_distill.py", "stage3_finetune.py", "infer.py",
    "-m comedian.evaluate", "-m comedian.report", "-m comedian.prepare"])
def test_a_python_without_torch_is_one_line(command):
    """Who forgets to activate .venv reads what to do. -S leaves out all that was installed."""
    ran = subprocess.run([sys.executable, "-S", *command.split(), "--help"], cwd=ROOT,
                         capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1, ran.stderr
    assert ran.stderr.startswith("error: ") and "source .venv/bin/activate" in ran.stderr
