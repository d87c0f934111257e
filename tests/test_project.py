"What holds the project together: pins, notebooks and package in step, light imports, and the files that name each other."
import ast, json, os, re, shutil, subprocess, sys
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

import pytest, yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import autoscale

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/"nbs").glob("*.ipynb"))
PAPER_NOTEBOOKS = sorted((ROOT/"nbs/paper").glob("*.ipynb"))
MODULES = sorted(p for p in (ROOT/"autoscale").glob("*.py") if not p.name.startswith("_"))
EXTRAS = ("train", "paper", "frameworks", "docs", "dev")

def settings() -> dict:
    config = ConfigParser(delimiters=["="])
    config.read(ROOT/"settings.ini", encoding="utf-8")
    return dict(config["DEFAULT"])

def read_notebook(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]

def python(*arguments, cwd=ROOT) -> subprocess.CompletedProcess:
    "Run this environment's Python from the project's root, away from the hub and from any display."
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True,
                          env={**os.environ, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"})

def name_of(path: Path) -> str: return path.name

# ---- versions ----

def pins() -> dict[str, str]:
    lines = (ROOT/"constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(re.fullmatch(r"(\S+)==([^+\s]+)", line).groups() for line in lines if not line.startswith("#"))

def requirements() -> list[Requirement]:
    return [Requirement(r) for key in ("requirements", *(f"{e}_requirements" for e in EXTRAS)) for r in settings()[key].split()]

def test_environment_yml_has_the_pins_of_constraints_txt():
    python_version, pip, packages = yaml.safe_load((ROOT/"environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert (python_version, pip) == ("python=3.11", "pip")
    assert packages["pip"] == [f"{name}=={version}" for name, version in pins().items()] + [f"-e .[{','.join(EXTRAS)}]"]

@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_requirement_is_pinned_within_its_range(requirement):
    versions = {canonicalize_name(name): version for name, version in pins().items()}
    assert versions[canonicalize_name(requirement.name)] in requirement.specifier

def test_every_pin_is_needed():
    "Whatever the extras need, directly or through others, and nothing that only happened to be installed."
    needed, waiting = set(), [("autoscale-mix", extra) for extra in EXTRAS]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in needed: continue
        needed.add((name, extra))
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    assert {canonicalize_name(name) for name in pins()} <= {name for name, _ in needed}

def test_makefile_states_the_oldest_python_of_the_pins():
    major, minor, patch = map(int, re.search(r"sys.version_info >= \((\d+), (\d+), (\d+)\)", (ROOT/"Makefile").read_text(encoding="utf-8")).groups())
    ranges = [SpecifierSet(metadata.metadata(name)["Requires-Python"] or "") for name in pins()]
    assert all(f"{major}.{minor}.{patch}" in r for r in ranges)
    assert not all(f"{major}.{minor}.{patch - 1}" in r for r in ranges)

def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT/"CITATION.cff").read_text(encoding="utf-8"))
    assert settings()["version"] == autoscale.__version__ == citation["version"]
    assert f'target-version = "py{settings()["min_python"].replace(".", "")}"' in (ROOT/"pyproject.toml").read_text(encoding="utf-8")
    assert (citation["title"], citation["authors"]) == (settings()["title"], [{"name": settings()["author"]}])

# ---- notebooks and package ----

def copy_of_the_notebooks(folder: Path) -> Path:
    shutil.copytree(ROOT/"nbs", folder/"nbs", ignore=shutil.ignore_patterns("records", ".ipynb_checkpoints"))
    shutil.copy(ROOT/"settings.ini", folder)
    return folder

def test_package_is_what_the_notebooks_export(tmp_path):
    copy = copy_of_the_notebooks(tmp_path)
    (copy/"autoscale").mkdir()
    written = (ROOT/"autoscale/__init__.py").read_text(encoding="utf-8")  # by hand, but for the line with the version
    (copy/"autoscale/__init__.py").write_text(re.sub(r'(?m)^__version__ = ".*"$', '__version__ = "0"', written), encoding="utf-8")
    done = python("-c", "from nbdev.doclinks import nbdev_export; nbdev_export()", cwd=copy)
    assert done.returncode == 0, done.stderr
    exported = {p.name: p.read_text(encoding="utf-8") for p in (copy/"autoscale").glob("*.py")}
    assert exported == {p.name: p.read_text(encoding="utf-8") for p in (ROOT/"autoscale").glob("*.py")}

def test_notebooks_are_clean(tmp_path):
    copy = copy_of_the_notebooks(tmp_path)
    done = python("-c", "from nbdev.clean import nbdev_clean; nbdev_clean()", cwd=copy)
    assert done.returncode == 0, done.stderr
    changed = [p.name for p in NOTEBOOKS + PAPER_NOTEBOOKS if (copy/p.relative_to(ROOT)).read_bytes() != p.read_bytes()]
    assert not changed, "run nbdev_clean"

def run_notebook(path: Path) -> subprocess.CompletedProcess:
    "As nbdev_test does, in a process of its own: torch's threads and accelerate's state must not leak from chapter to chapter."
    return python("-c", "import sys, pathlib, nbdev.test\n"
                        "path, root = map(pathlib.Path, sys.argv[1:])\n"
                        "passed, _ = nbdev.test.test_nb(path, skip_flags=['notest'], basepath=root)\n"
                        "sys.exit(0 if passed else 'the notebook failed')", path, ROOT)

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_runs(path):
    done = run_notebook(path)
    assert done.returncode == 0, done.stdout + done.stderr

def test_a_failing_notebook_is_seen(tmp_path):
    path = tmp_path/"broken.ipynb"
    path.write_text('{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": null, "source": ["assert 1 == 2"]}],'
                    ' "metadata": {"kernelspec": {"language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}')
    done = run_notebook(path)
    assert done.returncode == 1 and "AssertionError" in done.stderr

@pytest.mark.parametrize("path", NOTEBOOKS + PAPER_NOTEBOOKS, ids=name_of)
def test_notebook_opens_like_a_chapter(path):
    title = next("".join(c["source"]) for c in read_notebook(path) if c["cell_type"] == "markdown")
    assert re.match(r"# \S.*\n+> \S", title), f"it should open with '# Title' and '> subtitle', not {title[:60]!r}"

@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_hides_nothing_from_the_test_run(path):
    source = "\n".join("".join(c["source"]) for c in read_notebook(path))
    assert not re.search(r"skip_exec|#\|\s*(eval: *false|notest)", source)

@pytest.mark.parametrize("path", PAPER_NOTEBOOKS, ids=name_of)
def test_paper_notebook_has_one_parameters_cell(path):
    "Without the tag papermill puts its values at the top, and the defaults below them win."
    tagged = [c for c in read_notebook(path) if "parameters" in c["metadata"].get("tags", [])]
    assert [c["cell_type"] for c in tagged] == ["code"]

# ---- modules ----

def exported_module(path: Path) -> str:
    return next(match[1] for c in read_notebook(path) if (match := re.search(r"#\|\s*default_exp (\w+)", "".join(c["source"]))))

ORDER = [exported_module(path) for path in NOTEBOOKS]

def imported_modules(path: Path) -> set[str]:
    "The sibling modules that a module imports, anywhere in it and in any spelling."
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level: names = [f"autoscale.{node.module or a.name}" for a in node.names]
        elif isinstance(node, ast.ImportFrom): names = [node.module] if node.module != "autoscale" else [f"autoscale.{a.name}" for a in node.names]
        else: continue
        found |= {n.split(".")[1] for n in names if n.startswith("autoscale.")}
    return found & set(ORDER)

@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_only_earlier_chapters(path):
    assert imported_modules(path) <= set(ORDER[:ORDER.index(path.stem)])

@pytest.mark.parametrize("module", ("mixture", "runs", "ddo", "projection", "figures", "cli"))
def test_analysis_imports_without_torch(module):
    heavy = {"torch", "transformers", "datasets", "tokenizers", "accelerate", "papermill", "nbdev", "fastcore", "IPython"}
    done = python("-c", f"import sys, autoscale.{module}; print(*sorted({heavy!r} & set(sys.modules)))")
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr

def test_command_answers():
    done = subprocess.run([Path(sys.executable).with_name("autoscale"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("corpus", "design", "sweep", "fit", "project", "reproduce"))

@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_reads_no_pickles(path):
    "A pickle runs code when it is read; stores, checkpoints and caches of this package must not."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] + [getattr(node, "module", None)] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        assert not {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & {(n or "").split(".")[0] for n in names}
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "pd.read_pickle"), f"line {node.lineno}"
            assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords), f"line {node.lineno}"

def test_ruff_is_content():
    done = python("-m", "ruff", "check", "--no-cache", "--output-format", "concise", "autoscale", "tests")
    assert done.returncode == 0, done.stdout

# ---- files that name each other ----

def test_readme_names_targets_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT/"Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    code = re.findall(r"```.*?```|`[^`\n]+`", (ROOT/"README.md").read_text(encoding="utf-8"), re.DOTALL)
    named = set(re.findall(r"\bmake ([a-z]+)", "\n".join(code)))
    assert {"reproduce", "test"} <= named <= targets

def test_make_alone_prints_the_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "make reproduce" in done.stdout and "make test" in done.stdout

def project_files() -> list[Path]:
    "Everything that is or could be committed."
    away = {".git", ".venv", "build", "dist", "__pycache__", ".ipynb_checkpoints", ".hypothesis", ".pytest_cache", ".ruff_cache", "_proc"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not away & set(p.relative_to(ROOT).parts) and "egg-info" not in str(p)]

def test_no_file_names_a_path_of_one_machine():
    "An address that only its author has, mostly in the output of a notebook."
    machine = re.compile(rb"/(?:work|root|home/\w+|Users/\w+)" rb"/|(?<!\w)\.libra" rb"ry\b|(?<![\w-])sha" rb"red/|/tmp/n" rb"b\b|/opt/(?:wheels|pypi)")
    found = [f"{p.relative_to(ROOT)}: {match[0].decode()}" for p in project_files() if (match := machine.search(p.read_bytes()))]
    assert not found

def test_readme_shows_the_weights_that_the_packaged_runs_give():
    "The table in the README is what its two commands print; the runs behind it ship with the package."
    from autoscale.projection import project_runs
    from autoscale.runs import sample_run_table
    optima, target = project_runs(sample_run_table(), 1_179_648, floor=.2 / 6)
    rows = [line.split("|")[1:6] for line in (ROOT/"README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ") and line.count("|") == 7]
    shown = {name.strip(): [value.strip() for value in values] for name, *values in rows if name.strip() in target.mixture.domains}
    assert list(shown) == list(target.mixture.domains)
    for i, domain in enumerate(target.mixture.domains):
        assert shown[domain][:3] == [f"{m.weights[i]:.4f}" for m in (optima[0].mixture, optima[1].mixture, target.mixture)]
        assert abs(int(shown[domain][3].replace(",", "")) - target.mixture.tokens[i]) < 64  # whole sequences of 64

def test_no_run_record_of_the_smoke_profile_is_committed():
    "A clean clone trains: what it shows must be its own runs."
    done = subprocess.run(["git", "ls-files", "nbs/paper/records/smoke"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip("not a git checkout")
    assert done.stdout == ""

@pytest.mark.parametrize("path", sorted((ROOT/"nbs").glob("*.ipynb")), ids=lambda p: p.name)
def test_committed_outputs_are_those_of_a_working_notebook(path):
    "A failing shell cell fails no notebook, and a notebook that was cleaned of its outputs teaches nothing."
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    text = json.dumps([c["outputs"] for c in cells])
    assert "command not found" not in text and "Traceback" not in text
    assert sum(bool(c["outputs"]) for c in cells) >= 2
