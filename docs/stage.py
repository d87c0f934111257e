"""Lay out the sources of the site in build/docs/source, at the places that links between the files of the project expect.

Pages of this folder, README and DECISIONS; the chapters, without what is for nbdev only; notebooks of the paper as they were executed; the committed figures and
tables; a page of reference for each module, and one for the command line. Nothing is executed here and nothing is fetched."""
import importlib, inspect, json, os, re, shutil, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT/"build/docs/source"  # or the folder named on the command line
EXECUTED = {"mini": "autoscale reproduce --profile mini", "published": "autoscale reproduce --source published"}  # profile -> what makes its notebooks
PROFILES = {"mini": "the real thing on a laptop, redrawn from its recorded runs", "published": "the authors' published numbers, recomputed",
            "truth": "simulated worlds, where the best mixture is known", "scarce": "a domain that runs out", "encoder": "an encoder in the paper's second half, at a small size", "smoke": "every step in minutes", "bench": "timings, with machine and versions"}

def write(path: str, text: str):
    file = SOURCE/path; file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")

# ---- notebooks ----

def chapters() -> dict[str, Path]:  # module -> the notebook that defines it
    paths = sorted((ROOT/"nbs").glob("*.ipynb"))
    return {re.search(r"#\| *default_exp (\w+)", p.read_text(encoding="utf-8"))[1]: p for p in paths}

def chapter(notebook: dict,  # as read from an .ipynb
            note: str = "",  # Markdown to put below the title
           ) -> dict:  # without hidden cells, nbdev's directives and calls of `show_doc`
    "A notebook as its readers should see it. What papermill injected stays."
    cells, noted = [], False
    for cell in notebook["cells"]:
        lines = "".join(cell["source"]).splitlines()
        if cell["cell_type"] == "code":
            directives = [line[2:].split(":")[0].split() for line in lines if line.startswith("#|")]
            if any(d and d[0] in ("hide", "default_exp", "hide_input") for d in directives): continue
            lines = [line for line in lines if not line.startswith("#|") and not re.match(r"\s*show_doc\(", line)]
            if not any(lines): continue
        elif cell["cell_type"] == "markdown" and not noted:
            at = next((i for i, line in enumerate(lines) if i and not line.strip() and any(before.startswith(">") for before in lines[:i])), len(lines))
            lines, noted = [*lines[:at], "", note, *lines[at:]], True
        text = "\n".join(lines).strip("\n").replace(f"{ROOT}/", "")  # papermill injects whole paths
        cells.append({**cell, "source": text})
    return {**notebook, "cells": cells, "metadata": {**notebook["metadata"], "language_info": {"name": "python", "pygments_lexer": "ipython3"}}}

def read_notebook(path: Path) -> dict: return json.loads(path.read_text(encoding="utf-8"))

def title(notebook: dict) -> str:
    return next(re.match(r"# (.+)", "".join(c["source"]))[1] for c in notebook["cells"] if c["cell_type"] == "markdown")

def stage_chapters():
    for module, path in chapters().items():
        page = "command-line" if module == "cli" else f"api/{module}"
        write(f"nbs/{path.name}", json.dumps(chapter(read_notebook(path), f"*This notebook defines* [`autoscale.{module}`](../{page}.md).")))

def stage_executed(wanted: bool) -> list[str]:  # what is not there
    missing, page = [], ["# The paper, executed", "", "The experiment's own notebooks with the parameters of a profile, and what they printed and drew. They hold records and figures only; what they call is in the chapters.", ""]
    for profile, command in EXECUTED.items():
        sources, there = sorted((ROOT/"nbs/paper").glob("*.ipynb")), ROOT/"build"/profile/"notebooks"
        names = [p.name for kind in ("stage", "study", "figure", "table") for p in sources if p.name.startswith(kind) and wanted and (there/p.name).exists()]
        page += [f"## Profile {profile}: {PROFILES[profile]}", ""]
        if not names:
            missing.append(f"no executed notebooks of {profile}: `{command}` makes them")
            page += [f"Not part of this build: its executed notebooks are not in `{there.relative_to(ROOT)}`. `{command}` makes them.", ""]
            continue
        for name in names: write(f"paper/{profile}/{name}", json.dumps(chapter(read_notebook(there/name), f"*As executed by* `{command}`.")))
        page += ["```{toctree}", ":maxdepth: 1", "", *(f"{title(read_notebook(there/name))}, {profile} <{profile}/{Path(name).stem}>" for name in names), "```", ""]
    write("paper/index.md", "\n".join(page))
    return missing

# ---- figures and tables ----

def stage_figures():
    shutil.copytree(ROOT/"figures", SOURCE/"figures")
    for profile in PROFILES:
        folder = SOURCE/"figures"/profile
        tables = sorted(p for p in folder.glob("*.md") if p.name != "index.md")
        for path in tables:
            text = path.read_text(encoding="utf-8")
            if not text.startswith("# "): path.write_text(f"# {path.stem}\n\n{text}", encoding="utf-8")
        page = [f"# Figures of {profile}", "", f"Profile {profile}: {PROFILES[profile]}. The drawn numbers lie beside each picture.", ""]
        for path in sorted(folder.glob("*.png")):
            numbers = path.with_suffix(".csv")
            page += [f"## {path.stem}", "", f"![{path.stem} of the profile {profile}]({path.name})", "",
                     " · ".join(f"[{p.name}]({p.name})" for p in (numbers, path.with_suffix(".svg")) if p.exists()), ""]
        rest = [p for p in sorted(folder.iterdir()) if p.suffix in (".csv", ".json") and not p.with_suffix(".png").exists() and p.name != "index.json"]
        if rest: page += ["## Other files", "", *(f"- [{p.name}]({p.name})" for p in rest), ""]
        if tables: page += ["## Tables", "", "```{toctree}", ":maxdepth: 1", "", *(p.stem for p in tables), "```", ""]
        write(f"figures/{profile}/index.md", "\n".join(page))
    write("figures/index.md", "\n".join(["# Figures and tables", "", "Everything here is committed; the commands that make it are in {doc}`/reproduce-the-paper`.", "", "```{toctree}", ":maxdepth: 1", "", *(f"{p}/index" for p in PROFILES), "```", ""]))

# ---- reference ----

def sentence(text: str | None) -> str:
    "The first sentence of a docstring, for a cell of a table."
    return re.split(r"(?<!al)\.\s|; raises ", " ".join((text or "").split()))[0].rstrip(".;:").replace("|", "\\|")

def stage_api():
    import autoscale
    home = {}
    for module, path in chapters().items():
        if module == "cli": continue  # has a page of its own
        made = importlib.import_module(f"autoscale.{module}")
        home |= {name: module for name in made.__all__}
        write(f"api/{module}.md", "\n".join([f"# autoscale.{module}", "", f"*{made.__doc__}.* Explained in [{path.stem}](../nbs/{path.name}).", "",
                                             "```{eval-rst}", f".. automodule:: autoscale.{module}", "   :members:", "```", ""]))
    rows = ["| name | module | what |", "|---|---|---|"]
    for name in autoscale.__all__:
        value = getattr(autoscale, name)
        documented = isinstance(value, type) or inspect.isfunction(value)
        module = value.__module__.removeprefix("autoscale.") if documented else home[name]
        rows.append(f"| {f'{{py:obj}}`{name} <autoscale.{module}.{name}>`' if documented else f'`{name}`'} | {{doc}}`{module}` | {sentence(value.__doc__) if documented else f'{type(value).__name__} of {len(value)}' if hasattr(value, '__len__') else ''} |")
    write("api/index.md", "\n".join([
        "# Python reference", "", "Names of the package itself are imported from it: `from autoscale import Mixture`. They are what the version number speaks of; the rest of each module is for those who build on the chapters.", "",
        *rows, "", "```{toctree}", ":hidden:", "", *(m for m in chapters() if m != "cli"), "```", ""]))

def stage_command_line():
    import typer
    from typer.testing import CliRunner
    from autoscale.cli import app
    runner = CliRunner()
    def help_of(words):
        done = runner.invoke(app, [*words, "--help"], prog_name="autoscale", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}, terminal_width=100)
        if done.exit_code: raise RuntimeError(f"{words}: {done.output}")
        return done.output.strip("\n")
    def walk(command, words):
        for name, child in getattr(command, "commands", {}).items():
            if not getattr(child, "hidden", False): yield [*words, name], child; yield from walk(child, [*words, name])
    found = list(walk(typer.main.get_command(app), []))
    page = ["# Command line", "", "Sizes are written `0.3B`, `300M` or `1e9`; `--json -` writes to standard output. Exit status 0, 1 (input or result is bad: one line on standard error) or 2 (usage).", "",
            "| command | what it does |", "|---|---|", *(f"| [`autoscale {' '.join(w)}`](#autoscale-{'-'.join(w)}) | {sentence(c.help)} |" for w, c in found), "", "```console", "$ autoscale --help", help_of([]), "```", ""]
    for words, _ in found: page += [f"(autoscale-{'-'.join(words)})=", f"## autoscale {' '.join(words)}", "", "```console", f"$ autoscale {' '.join(words)} --help", help_of(words), "```", ""]
    write("command-line.md", "\n".join(page))

# ---- pages ----

def links(text: str) -> list[str]:
    "Relative addresses that a Markdown text links to."
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return [a.split("#")[0] for a in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", a)]

def stage_pages():
    contents = "\n".join(f"{p.stem.split('_')[0]} {title(read_notebook(p))} <nbs/{p.stem}>" for p in chapters().values())
    for path in sorted((ROOT/"docs").glob("*.md")): write(path.name, path.read_text(encoding="utf-8").replace("](../", "](").replace("nbs/*", contents))
    for name in ("README.md", "DECISIONS.md", "CHANGELOG.md"):
        if (ROOT/name).exists(): write(name, (ROOT/name).read_text(encoding="utf-8").replace("](docs/", "]("))
    for page in [*SOURCE.glob("*.md"), *(SOURCE/"nbs").glob("*.ipynb")]:  # what they link to and is no page is offered as a file
        text = page.read_text(encoding="utf-8") if page.suffix == ".md" else "\n".join("".join(c["source"]) for c in read_notebook(page)["cells"] if c["cell_type"] == "markdown")
        for address in links(text):
            target = Path(os.path.normpath(page.parent/address)); original = ROOT/target.relative_to(SOURCE)
            if target.exists() or not original.is_file(): continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if original.suffix == ".ipynb":
                notebook = chapter(read_notebook(original), "*As it is in the repository, not executed.*")
                target.write_text(json.dumps({**notebook, "metadata": {**notebook["metadata"], "orphan": True}}), encoding="utf-8")
            else: shutil.copy(original, target)

def stage(executed: bool = True):
    shutil.rmtree(SOURCE, ignore_errors=True)
    for make in (stage_chapters, stage_figures, stage_api, stage_command_line, stage_pages): make()
    for line in stage_executed(executed): print(f"docs: {line}", file=sys.stderr)

if __name__ == "__main__":
    folders = [a for a in sys.argv[1:] if not a.startswith("--")]
    if folders: SOURCE = Path(folders[0]).resolve()
    stage("--without-executed" not in sys.argv)
