"The package as others get it: built, installed without extras into an empty environment, used there."
import json, os, shutil, subprocess, sys, tarfile, zipfile
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
    assert metadata.get_all("Provides-Extra") == ["train", "paper", "dev"]
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
