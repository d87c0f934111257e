"The package as others get it: built, installed without extras into an empty environment, used there."
import json, os, shutil, subprocess, sys, tarfile, zipfile
from decimal import Decimal
from email.parser import Parser
from pathlib import Path

import pytest

import autoscale

ROOT = Path(__file__).resolve().parents[1]

def run(*command, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout

@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    "A folder with the source archive and the wheel built from that archive, made from a copy of the tree."
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder/"tree", ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "figures"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, folder/"tree", cwd=folder)
    return folder

@pytest.fixture(scope="module")
def wheel(built) -> Path: return next(built.glob("*.whl"))

@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    "The `bin` folder of an environment that holds the wheel, the core requirements and nothing else."
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    run(sys.executable, "-m", "pip", "--python", environment/"bin/python", "install", "-qq", "--no-input", "--disable-pip-version-check",
        "-c", ROOT/"constraints.txt", wheel, cwd=environment)
    return environment/"bin"

def test_wheel_holds_the_modules_and_the_data(wheel):
    tree = {p.relative_to(ROOT).as_posix() for p in (ROOT/"autoscale").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == tree
    assert "autoscale/data/sample_runs.csv" in tree

def test_wheel_states_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    about = f"autoscale_mix-{autoscale.__version__}.dist-info"
    metadata = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == ("autoscale-mix", autoscale.__version__, "MIT")
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata.get_all("Provides-Extra") == ["train", "paper", "track", "ray", "frameworks", "docs", "dev"]
    core = [r.split(">=")[0] for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert core == ["numpy", "scipy", "pandas", "matplotlib", "typer", "tqdm"]
    assert "Programming Language :: Python :: 3" in metadata.get_all("Classifier")
    assert metadata["Description-Content-Type"] == "text/markdown" and metadata.get_payload() == (ROOT/"README.md").read_text(encoding="utf-8")
    assert archive.read(f"{about}/entry_points.txt").decode().split() == ["[console_scripts]", "autoscale", "=", "autoscale.cli:main"]
    assert archive.read(f"{about}/licenses/LICENSE") == (ROOT/"LICENSE").read_bytes()

def test_source_archive_holds_the_sources(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive: held = {name.partition("/")[2] for name in archive.getnames()}
    needed = ["settings.ini", "setup.py", "pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "CITATION.cff", "nbs/00_mixture.ipynb", "tests/test_wheel.py"]
    assert set(needed) <= held

def test_environment_without_extras_has_no_torch_and_no_nbdev(installed, tmp_path):
    found = run(installed/"python", "-c", "from importlib.util import find_spec\n"
                "print(*(m for m in ('torch', 'transformers', 'datasets', 'nbdev', 'fastcore', 'papermill') if find_spec(m)))", cwd=tmp_path)
    assert found.split() == []

def test_the_way_from_a_table_to_a_trainer_needs_the_core_only(installed, tmp_path):
    "Runs, mixture, comparison, design, export, report, each without a module that the core does not bring."
    watch = "import sys; sys.argv[0] = 'autoscale'\nfrom autoscale.cli import main\ntry: main()\nfinally: print('extra:', *sorted({'torch', 'yaml', 'pyarrow', 'datasets', 'rich', 'IPython'} & set(sys.modules)), file=sys.stderr)"
    (tmp_path/"there.json").write_text(json.dumps(dict.fromkeys(("wikipedia", "c4", "github", "news", "speeches", "books"), "40B")), encoding="utf-8")
    for command in (["project", "sample", "--to", "100B", "--json", "mixture.json"], ["compare", "sample", "mixture.json", "--to", "100B", "--available", "there.json"], ["export", "mixture.json", "--framework", "megatron", "-o", "megatron"],
                    ["report", "sample", "--to", "100B", "-o", "report.html"], ["fit", "sample", "--held-out"], ["design", "design.csv", "--domains", "web,code", "--tokens", "0.3B,1.2B", "--configs", "configs", "--framework", "nemo"], ["corpus", "list"], ["doctor"]):
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run([installed/"python", "-c", watch, *command], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0 and done.stderr.endswith("extra:\n") and (done.stdout or command[0] == "export"), (command, done.stderr)
    weights = next(line for line in (tmp_path/"megatron/data_path.txt").read_text(encoding="utf-8").splitlines() if line.startswith("--data-path")).split()[1::2]
    assert sum(map(Decimal, weights)) == 1 and len(weights) == 6 and len(list((tmp_path/"configs").glob("*.json"))) == 10 and (tmp_path/"report.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert done.stdout.startswith("core: works\n") and "extra train: not installed; run: pip install 'autoscale-mix[train]'" in done.stdout

def test_what_the_core_cannot_do_says_how_to_get_it(installed, tmp_path):
    for command, extra in ((["corpus", "build", "store", "--domains", "stdlib"], "train"), (["reproduce"], "paper"), (["sweep", "d.csv", "--store", "s", "--runs", "r", "--out", "o.csv", "--settings", "s.yml"], "paper")):
        run(installed/"autoscale", "design", "d.csv", "--domains", "a,b", "--tokens", "1M", cwd=tmp_path)
        (tmp_path/"s.yml").write_text("context: 64\n", encoding="utf-8")
        done = subprocess.run([installed/"autoscale", *command], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "AUTOSCALE_CACHE": str(tmp_path/"cache")})
        assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1 and f"run: pip install 'autoscale-mix[{extra}" in done.stderr, done.stderr

def test_installed_wheel_fits_the_sample(installed, tmp_path):
    scales = json.loads(run(installed/"autoscale", "fit", "sample", "--json", "-", cwd=tmp_path))["scales"]
    assert [s["total_tokens"] for s in scales] == [73_728, 294_912]
    for mixture in scales:
        assert len(mixture["weights"]) == len(mixture["domains"]) == 6
        assert sum(mixture["weights"]) == pytest.approx(1, abs=1e-12)

def test_installed_wheel_projects_the_sample(installed, tmp_path):
    run(installed/"autoscale", "project", "sample", "--to", "10M", "--json", "w.json", cwd=tmp_path)
    mixture = json.loads((tmp_path/"w.json").read_text(encoding="utf-8"))
    assert sum(mixture["tokens"]) == mixture["total_tokens"] == 10_000_000
    assert all(isinstance(n, int) and n >= 0 for n in mixture["tokens"])
    assert sum(mixture["weights"]) == pytest.approx(1, abs=1e-12)
    assert [n / 10_000_000 for n in mixture["tokens"]] == pytest.approx(mixture["weights"], abs=1e-12)
