"The Python interface: its ten lines, its names, what importing it loads, its types, its version."
import ast, json, os, re, subprocess, sys, textwrap
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import pytest

import autoscale

ROOT = Path(__file__).resolve().parents[1]
TREE = ast.parse((ROOT/"autoscale/__init__.py").read_text(encoding="utf-8"))

def fresh(code: str) -> str:
    "What code prints in an interpreter of its own."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

def check(*arguments, cwd: Path = ROOT) -> dict:
    "basedpyright's answer. It finds the package by the path of the interpreter that it asks, which an editable installation does not extend."
    done = subprocess.run([Path(sys.executable).with_name("basedpyright"), "--pythonpath", sys.executable, "--outputjson", *arguments],
                          cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)

# ---- ten lines ----

def ten_lines() -> str:
    return textwrap.dedent("\n".join(line for line in autoscale.__doc__.splitlines() if line.startswith("    "))) + "\n"

def test_ten_lines_lead_from_runs_to_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(ten_lines().splitlines()) == 10
    exec(ten_lines(), {})
    mixture = autoscale.load_mixture("mixture.json")
    assert (mixture.total, mixture.method) == (10_000_000, "joint") and mixture.interval["level"] == .9
    shares = re.findall(r"target_ratio: (\S+)", (tmp_path/"config/source_mixture.yaml").read_text(encoding="utf-8"))
    assert [float(s) for s in shares] == pytest.approx(mixture.weights, abs=1e-6)
    assert "</html>" in (tmp_path/"report.html").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "'joint': {'mixtures': 0.03054" in printed and "'github': 0.2187" in printed and "uniform {'mean': 3.7897" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config", "mixture.json", "report.html"]

# ---- names ----

def test_every_public_name_is_there_and_documented():
    for name in autoscale.__all__:
        value = getattr(autoscale, name)
        home = import_module(f"autoscale.{autoscale._home[name]}")
        assert value is getattr(home, name) and name in home.__all__
        if callable(value): assert value.__doc__ and not value.__doc__.startswith(f"{name}("), name  # a dataclass without words gets its signature
    assert set(autoscale.__all__) <= set(dir(autoscale))

def test_three_lists_of_names_are_one():
    (block,) = [node for node in TREE.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imported = {alias.name: node.module for node in block.body for alias in node.names}
    assert imported == autoscale._home
    assert sorted(autoscale.__all__) == sorted(imported)

def test_no_public_name_is_a_module():
    "Importing a submodule would put it in the place of the name."
    assert not {p.stem for p in (ROOT/"autoscale").glob("*.py")} & set(autoscale.__all__)

def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fit_jont'"): _ = autoscale.fit_jont
    with pytest.raises(ImportError): exec("from autoscale import fit_jont")

# ---- imports ----

def test_import_loads_nothing_but_the_standard_library():
    loaded = fresh("import sys; before = set(sys.modules); import autoscale; print(*{m.partition('.')[0] for m in set(sys.modules) - before})").split()
    assert "autoscale" in loaded and set(loaded) - {"autoscale"} <= set(sys.stdlib_module_names)

def test_a_name_loads_its_own_module_only():
    loaded = fresh("import sys, autoscale; autoscale.Mixture; print(*(m for m in sys.modules if m.startswith('autoscale.') or m == 'scipy'))").split()
    assert loaded == ["autoscale.mixture"]

def test_no_public_name_needs_torch():
    found = fresh("import sys, autoscale\nfor name in autoscale.__all__: getattr(autoscale, name)\nprint(*({'torch', 'transformers', 'datasets', 'tokenizers', 'accelerate', 'yaml'} & set(sys.modules)))")
    assert not found.split()

# ---- types ----

def test_every_public_symbol_has_a_known_type(tmp_path):
    found = check("--verifytypes", "autoscale", "--ignoreexternal", cwd=tmp_path)["typeCompleteness"]
    assert found["pyTypedPath"] == str(ROOT/"autoscale/py.typed")
    symbols = {s["name"]: s for s in found["symbols"] if s["isExported"]}
    assert {f"autoscale.{name}" for name in autoscale.__all__} <= symbols.keys()
    unknown = {name: [d["message"] for d in s["diagnostics"]] for name, s in symbols.items() if not s["isTypeKnown"] or s["isTypeAmbiguous"]}
    apart = ("autoscale.cli.", "autoscale.figures.", "autoscale.model.", "autoscale.trainer.")  # Typer's options; classes of matplotlib and torch, which this mode of the checker does not look up
    assert not {name: why for name, why in unknown.items() if not name.startswith(apart)}
    assert len(unknown) < .05 * len(symbols)

def test_type_checker_has_nothing_to_say():
    "About the modules with public names; `basedpyright` alone checks those with torch too, and needs half a minute for it."
    files = sorted(f"autoscale/{home}.py" for home in autoscale._homes)
    found = check("autoscale/__init__.py", *files)
    said = [f"{Path(d['file']).name}:{d['range']['start']['line'] + 1}: {d['message']}" for d in found["generalDiagnostics"]]
    assert found["summary"]["filesAnalyzed"] >= len(files) and not said

def test_type_checker_sees_through_the_lazy_names(tmp_path):
    (tmp_path/"use.py").write_text("import autoscale\n"
                                   "reveal_type(autoscale.fit_joint(autoscale.read_runs('runs.csv')).optimum(10).mixture)\n"
                                   "autoscale.fit_jont\n"
                                   "autoscale.parse_tokens([1])\n", encoding="utf-8")
    said = [(d["range"]["start"]["line"] + 1, d["message"]) for d in check("use.py", cwd=tmp_path)["generalDiagnostics"] if d["severity"] != "warning"]
    assert [line for line, _ in said] == [2, 3, 4]
    assert '"Mixture"' in said[0][1] and '"fit_jont"' in said[1][1] and "list[int]" in said[2][1]

def test_package_says_that_it_is_typed():
    assert (ROOT/"autoscale/py.typed").read_bytes() == b""
    assert "include autoscale/py.typed" in (ROOT/"MANIFEST.in").read_text(encoding="utf-8").splitlines()

# ---- version ----

def changes() -> list[tuple[str, str, str]]:
    "(version, date, text) of every entry of the change log, newest first."
    text = (ROOT/"CHANGELOG.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"(?m)^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)\n", text)
    return list(zip(parts[::3], parts[1::3], parts[2::3]))

def test_version_is_that_of_the_settings_and_of_the_newest_change():
    config = ConfigParser(delimiters=["="]); config.read(ROOT/"settings.ini", encoding="utf-8")
    assert autoscale.__version__ == config["DEFAULT"]["version"] == changes()[0][0]

def test_change_log_has_its_form():
    numbers = [tuple(map(int, version.split("."))) for version, _, _ in changes()]
    assert len(numbers) >= 2 and numbers == sorted(set(numbers), reverse=True)
    assert [date for _, date, _ in changes()] == sorted((date for _, date, _ in changes()), reverse=True)
    for version, _, text in changes():
        sections = re.findall(r"(?m)^### (.+)$", text)
        assert sections and set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"} and len(set(sections)) == len(sections), version
        assert all(re.search(r"(?m)^- ", part) for part in re.split(r"(?m)^### .+$", text)[1:]), version
