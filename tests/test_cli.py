"""The command line: results on standard output, one clear line and status 1 for bad input, status 2 for a misspelt command."""
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoscale.mixture import Mixture, load_mixture
from autoscale.runs import read_run_table, sample_run_table, write_run_table

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


@pytest.mark.parametrize("command", [[], ["corpus"], ["corpus", "build"], ["design"], ["sweep"], ["fit"], ["project"], ["reproduce"]])
def test_every_command_has_help(command):
    done = autoscale(*command, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout


@pytest.mark.parametrize("args", [["fitt"], ["project", "sample"], ["fit", "sample", "--flor", "1"]])
def test_misspelt_commands_are_status_2(args):
    assert autoscale(*args).returncode == 2


def test_project_to_exactly_the_target(tmp_path):
    done = autoscale("project", "sample", "--to", "10M", "--floor", "0.2", "--json", tmp_path / "w.json")
    assert done.returncode == 0
    mixture = load_mixture(tmp_path / "w.json")
    assert mixture.total == 10_000_000 and mixture.method == "autoscale" and mixture.domains == sample_run_table().domains
    for domain, tokens in zip(mixture.domains, mixture.tokens):
        assert f"{tokens:,}" in next(line for line in done.stdout.splitlines() if line.startswith(f"| {domain} "))
    again = json.loads(autoscale("project", "sample", "--to", "10M", "--json", "-").stdout)
    assert again["tokens"] == list(mixture.tokens)


def test_target_floor_and_epochs_hold(tmp_path):
    (tmp_path / "available.json").write_text(json.dumps({d: 2_000_000 for d in sample_run_table().domains}))
    done = autoscale("project", "sample", "--to", "10M", "--target-floor", ".3", "--available", tmp_path / "available.json", "--max-epochs", "1.25", "--json", tmp_path / "w.json")
    assert done.returncode == 0, done.stderr
    mixture = load_mixture(tmp_path / "w.json")
    assert max(mixture.epochs) <= 1.25 + 1e-6 and min(mixture.weights) >= .3 / 6 - 1e-6 and mixture.total == 10_000_000
    assert "held at the target's cap" in done.stdout


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


def test_refusals_are_one_line(tmp_path):
    assert "below the smallest scale" in refused("project", "sample", "--to", "1k")
    assert "not a number of tokens" in refused("project", "sample", "--to", "lots")
    assert "no such run table" in refused("fit", tmp_path / "none.csv")
    assert "floors sum to 1.2" in refused("fit", "sample", "--floor", "1.2")
    assert "nats or perplexity" in refused("fit", "sample", "--objective", "accuracy")
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
    assert "domain 'wikipedia': floor -0.166667" in refused("fit", "sample", "--floor", "-1")
    assert "domain 'wikipedia': floor -0.166667" in refused("project", "sample", "--to", "10M", "--target-floor", "-1")
    assert "sequences of 0 tokens" in refused("design", tmp_path / "d.csv", "--domains", "a,b", "--tokens", "1M", "--multiple", "0")
    (tmp_path / "cut.csv").write_text("\n".join(lines[:12]) + "\n")
    assert "no DDO design" in refused("fit", tmp_path / "cut.csv")
    (tmp_path / "one.csv").write_text("\n".join(lines[:14]) + "\n")
    assert "needs a second one at another scale" in refused("project", tmp_path / "one.csv", "--to", "10M")
    assert "no profile" in refused("reproduce", "--profile", "nope")


def test_ignored_runs_are_named(tmp_path):
    table = sample_run_table()
    write_run_table(tmp_path / "runs.csv", table)
    last = (tmp_path / "runs.csv").read_text().splitlines()[-1].split(",")
    with open(tmp_path / "runs.csv", "a") as f:
        f.write(",".join(["stray", "777", *last[2:]]) + "\n")
    for command in (["fit"], ["project", "--to", "10M"]):
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
    assert done.returncode == 1 and done.stderr == f"autoscale: {tmp_path}/w.json: File too large\n" and not list(tmp_path.iterdir())


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
    refused("project", "sample", "--to", "1k", "--json", tmp_path / "w.json")
    assert (tmp_path / "w.json").read_text() == "precious" and [p.name for p in tmp_path.iterdir()] == ["w.json"]


def test_uniform_data_gives_uniform_weights(tmp_path):
    "Domains that are exchangeable must come out equal, whatever the numbers: a table made by the law itself."
    from autoscale.runs import RunTable
    from autoscale.sweep import design_table
    design = design_table([Mixture.uniform("abc", 3 * 10**6), Mixture.uniform("abc", 12 * 10**6)])
    losses = np.array([[3 + sum((2 + n / 10**6) ** -.5 for n in row)] * 3 for row in design.tokens])
    write_run_table(tmp_path / "runs.csv", RunTable(design.runs, design.domains, tuple("abc"), design.tokens, losses))
    result = json.loads(autoscale("project", tmp_path / "runs.csv", "--to", "1B", "--json", "-").stdout)
    assert np.allclose(result["weights"], 1 / 3, atol=1e-6)
