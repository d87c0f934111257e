"The site: Sphinx with myst-nb over what stage.py laid out. Nothing is executed, and no page loads anything from the network."
import ast, importlib.util, inspect, io, re, shutil, textwrap, tokenize
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
settings = ConfigParser(delimiters=["="]); settings.read(ROOT/"settings.ini", encoding="utf-8")

project, author, copyright, release = (settings["DEFAULT"][name] for name in ("title", "author", "copyright", "version"))
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
language = "en"

nb_execution_mode = "off"  # outputs are shown as they were committed
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = [str(Path(__file__).parent/"static")]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
templates_path = []

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the hook below writes them as the source has them: ArrayLike, not what it stands for
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# One file of MathJax that needs no fonts, beside the pages.
mathjax_path = "mathjax.js"
mathjax3_config = {"options": {"enableMenu": False}}

def copy_mathjax(app, exception):
    if exception: return
    package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    shutil.copy(package/"static/mathjax/tex-svg-full.js", Path(app.outdir)/"_static/mathjax.js")

# ---- docments: annotations and comments of parameters, result and a dataclass's fields, from the source, as a field list ----

def escape(text: str) -> str:
    "Plain text with `code` as reStructuredText."
    parts = text.split("`")
    for i, part in enumerate(parts):
        if i % 2 and i < len(parts) - 1: parts[i] = f"\\ ``{part}``\\ " if part.strip() else ""
        else: parts[i] = re.sub(r"([\\*|_])", r"\\\1", part)
    return "".join(parts).replace("  \\ ``", " ``").strip()

def paragraphs(docstring: str) -> list[str]:
    "A docstring of this package, plain paragraphs, lists and indented examples, as lines of reStructuredText."
    lines, example = [], False
    for line in inspect.cleandoc(docstring).splitlines():
        if line.startswith("    "):
            if not example: lines += ["", ".. code-block:: python", ""]
            example = True; lines.append(line)
        elif not line.strip(): lines.append("")
        else:
            if example: lines.append("")
            example = False; lines.append(escape(line))
    return [*lines, ""]

def comments(source: str) -> dict[int, str]:  # line -> its comment
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith("#|"): found[token.start[0]] = token.string.lstrip("# ")
    return found

def annotated(node: ast.expr) -> str: return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)

def field(name: str, annotation: ast.expr | None, comment: str | None) -> list[str]:
    if not (annotation or comment): return []
    return [f":param {name}: {escape(comment or '')}".rstrip(), *([f":type {name}: {annotated(annotation)}"] if annotation else [])]

def docments(what) -> list[str]:
    "The comments of a function's parameters and result, or of a dataclass's fields, as a field list."
    try:
        source = textwrap.dedent(inspect.getsource(what))
        node = ast.parse(source).body[0]
    except (TypeError, OSError, SyntaxError): return []  # not Python's own, or a lambda
    said = comments(source)
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and not n.target.id.startswith("_")]
        return [line for n in fields for line in field(n.target.id, n.annotation, said.get(n.end_lineno))] if fields and "@dataclass" in source[:source.index("class ")] else []
    if not isinstance(node, ast.FunctionDef): return []
    arguments = [*node.args.posonlyargs, *node.args.args, *([node.args.vararg] if node.args.vararg else []), *node.args.kwonlyargs, *([node.args.kwarg] if node.args.kwarg else [])]
    end = node.returns.end_lineno if node.returns else max([node.lineno, *(n.end_lineno for n in [*arguments, *node.args.defaults, *(d for d in node.args.kw_defaults if d)])])
    body = node.body[0].lineno
    closing = next((n for n in range(end, body + (body == end)) if re.search(r"\)[^()]*:\s*(#.*)?$", source.splitlines()[n - 1])), end)
    if not node.returns and node.lineno < closing in {a.end_lineno for a in arguments}: closing = None  # the comment is the last parameter's
    fields = [line for a in arguments if a.arg not in ("self", "cls") for line in field(a.arg, a.annotation, said.get(a.end_lineno) if a.end_lineno != closing else None)]
    if closing in said: fields.append(f":returns: {escape(said[closing])}")
    return fields + ([f":rtype: {annotated(node.returns)}"] if node.returns else [])

def show_docments(app, kind, name, what, options, lines):
    text = "\n".join(lines)
    lines[:] = [] if kind == "module" else paragraphs(text) if text.strip() else []
    if kind in ("function", "method", "class"): lines += ["", *docments(getattr(what, "__func__", what)), ""]

def setup(app):
    app.connect("autodoc-process-docstring", show_docments)
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
