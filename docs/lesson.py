"""
The lesson side by side: a page for each of the five files, the code left, what it means right.

    make lesson                                  # build/lesson/index.html
    python docs/lesson.py --out FOLDER

Nothing is written twice or placed by line number. Beside a function stand its docstring and the
passage of docs/method.md that names it ("Code: `f`"). A passage that names none stands by the
function whose docstring names its test, else by main; one whose equations a comment repeats, by
that comment. Under an equation is a link to its test, whose source is in the page. What a passage
names of the pantry comes at the end of its page. Beside a shape comment stands the shape that
docs/shapes.py has seen. No page needs a network or a script.
"""
import ast
import functools
import html
import re
import shutil
import textwrap
from pathlib import Path

import shapes
from exercise import EXERCISES
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from outline import FIVE, ROOT, STEP, TEST, passages, rows_of, test_source
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from comedian import command

FOLDED = ("imports", "options", "set-up", "everything below is bookkeeping")
WIDTH = 102                                                # columns of code, shapes included


# ------------------------------------------------------------------ words
def linked(name, shown, links):
    return f'<a href="{links[name]}">{shown}</a>' if name in links else shown


def text(self, tokens, i, options, env):
    """Names of tests and equations become links."""
    return re.sub(rf"{TEST}|\bEq\. \d", lambda name: linked(name[0], name[0], env["links"]),
                  html.escape(tokens[i].content, False))


def code_inline(self, tokens, i, options, env):
    name = tokens[i].content
    return linked(name, f"<code>{html.escape(name, False)}</code>", env["links"])


def fence(self, tokens, i, options, env):
    """An equation, its number, its proofs."""
    tex, _, number = tokens[i].content.strip().partition("\\qquad (")
    here = f' id="eq-{number[0]}"' if number else ""
    shown = convert(tex, display="block") + f"<span>({number}</span>" * bool(number)
    proofs = ", ".join(linked(test, test, env["links"]) for test in env["tests"])
    return (f'<div class="eq" tabindex="0"{here}>{shown}</div>'
            + f'<p class="proof">proved by {proofs}</p>' * bool(proofs))


MARKDOWN = MarkdownIt("js-default").use(dollarmath_plugin, renderer=lambda tex, _: convert(tex))
for rule in (text, code_inline, fence):
    MARKDOWN.add_render_rule(rule.__name__, rule)


def prose(words, links, tests=()):
    """HTML of docs/method.md's Markdown or of a docstring. links: {function, test or "Eq. 1":
    where}; tests: what proves the equations. Links to files that have no page are dropped."""
    words = re.sub(r"\[([^]]+)\]\((?!http)(?:\.\./)?([^)]+?)(?:\.py)?\)", lambda link: (
        f"[{link[1]}]({link[2]}.html)" if link[2] in FIVE else link[1]), words)
    words = re.sub(r'<img src="([^"]+)".*alt="([^"]+)">', r"[![\2](\1)](\1)", words)
    words = re.sub(r"^Reads  (.+\n?)+", lambda table: textwrap.indent(table[0], "    "), words,
                   flags=re.M)
    words = re.sub(r"^( ?\S.*\n)(?=    )", r"\1\n", words, flags=re.M)     # code, though no blank
    return MARKDOWN.render(words, {"links": links, "tests": tests})        # line is before it


# ------------------------------------------------------------------ code
@functools.cache
def colour(source):
    """The lines of Python code, each as HTML."""
    return highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).splitlines()


def code(cell, coloured, watch):
    """The lines of a Cell in colour, with the shapes that were seen."""
    out = []
    for n in cell.lines:
        line, shown = coloured[n - 1], ""
        if seen := watch and watch.seen.get((cell.path.name, n)):
            shown = ", ".join(" × ".join(map(str, shape)) for shape in seen)
            shown = f' <span class="seen">{shown}</span>'
        wide = len(html.unescape(re.sub("<.*?>", "", line + shown))) + 2       # 2: a small triangle
        line = re.sub(r'  ( *)(?=<span class="c1">)', lambda gap, wide=wide: (
            f'<span class="gap">  {gap[1][max(0, wide - WIDTH):]}</span>'), line)
        out.append(f"<span>{line}{shown}</span>")
    lines = re.sub("^(<span></span>)+|(<span></span>)+$", "", "".join(out))
    return f'<pre class="code"><code>{lines}</code></pre>'


# ------------------------------------------------------------------ pages
def row(cell, told, tests, page, links, shown, watch):
    """A row: the words first, which is their order on a phone. shown: what the page has already."""
    name, todo = "-".join(cell.name.split()) or f"from-{cell.lines[0]}", ""
    for number, exercise in EXERCISES.items():
        bodies = [STEP if ":" in body else body for body in exercise.bodies]
        if cell.path == ROOT / exercise.file and cell.name in bodies:
            what = "write this yourself" if exercise.tests else "write a test of this"
            todo += (f'<p class="todo"><b>Exercise {number}</b>, {exercise.title}: {what}. '
                     f"<code>python docs/exercise.py {number}</code></p>")
    words = [f"<h3>{html.escape(cell.name)}</h3>" * bool(cell.name), prose(cell.words, links)]
    for passage in told:
        if passage.text not in shown:
            shown[passage.text] = f"p-{len(shown)}"
            words.append(f'<div class="told" id="{shown[passage.text]}"><p class="of">'
                         f"{passage.title}</p>{prose(passage.text, links, passage.tests)}</div>")
        else:
            words.append(f'<p class="mute">{passage.title}: <a href="#{shown[passage.text]}">'
                         "the passage above</a></p>")
    for test in [test for test in tests if test not in shown]:
        file, source = test_source(test, page)
        source = "".join(f"<span>{line}</span>" for line in colour(source))
        words.append(f"<details><summary>{test}, in tests/{file}</summary>"
                     f'<pre id="t-{test}">{source}</pre></details>')
        shown[test] = name
    left = code(cell, colour(cell.path.read_text(encoding="utf-8")), watch)
    if {cell.section, cell.name} & {*FOLDED}:
        left = f"<details><summary>{len(cell.lines)} lines, folded</summary>{left}</details>"
    return (f'<div class="row" id="{name}"><div class="words">{"".join(words)}{todo}</div>'
            f'<div class="left">{left}</div></div>')


def write(out, watch=None):
    """All pages. watch: what shapes.record() has seen, or None."""
    pages, functions, index = {page: rows_of(page) for page in FIVE}, {}, ""
    for page, rows in pages.items():
        functions |= {cell.name: f"{page}.html#{cell.name}" for cell, *_ in rows
                      if cell.name.replace(".", "_").isidentifier()}
        functions |= {f"Eq. {n}": f"{page}.html#eq-{n}" for _, told, _ in rows
                      for p in told for n in re.findall(r"\\qquad \((\d)\)", p.text)}
    run = ", ".join(f"{k} = {v}" for k, v in (shapes.LETTERS | shapes.IN_MAIN).items())
    body = {"index": ""}
    for page, rows in pages.items():
        links = functions | {cell.name.split(".")[-1]: f"#{cell.name}" for cell, *_ in rows
                             if cell.name in functions}
        links |= {test: f"#t-{test}" for *_, tests in rows for test in tests}
        doc = ast.get_docstring(ast.parse((ROOT / f"{page}.py").read_text(encoding="utf-8")))
        body[page] = (f"<header><h1>{page}.py</h1>{prose(doc, links)}<p class=mute>After a shape: "
                      f'<span class="seen">what the line made</span> in a small run, in which '
                      f"{run}.</p></header>")
        shown, section = {}, ""
        for cell, *of_cell in rows:
            body[page] += f"<h2>{cell.section}</h2>" * (cell.section not in (section, ""))
            body[page] += row(cell, *of_cell, page, links, shown, watch)
            section = cell.section
        what = html.escape(doc.partition("\n\n")[0])
        index += f'<p><a href="{page}.html">{page}.py</a> {what}</p>'
    tasks = "".join(f'<li>{title}: <a href="{Path(file).stem}.html#{names[0]}"><code>{names[0]}'
                    "</code></a>" for title, file, names, _ in EXERCISES.values())
    tasks = tasks.replace("reference.html", "infer.html")              # which has the twins
    first = "".join(f"<h2>{p.title}</h2>{prose(p.text, functions)}" for p in passages()
                    if not p.page)
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    template, start = template.split("<!-- the index -->\n")
    body["index"] = (start.replace("PAGES", index).replace("PASSAGES", first)
                     .replace("TASKS", tasks))
    out.mkdir(parents=True, exist_ok=True)
    for page, shown in body.items():
        nav = " ".join(f'<a href="{other}.html"{" aria-current=page" * (other == page)}>'
                       f"{other}</a>" for other in body)
        (out / f"{page}.html").write_text(template.replace("TITLE", page).replace("NAV", nav)
                                          .replace("BODY", shown), encoding="utf-8")
        for picture in re.findall(r'<img src="([^"]+)"', shown):
            shutil.copy2(ROOT / "docs" / picture, out / picture)


if __name__ == "__main__":
    parser = command.Parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build/lesson", help="their folder")
    out = parser.parse_args().out
    write(out, shapes.record())
    print(f"{out}/index.html")
