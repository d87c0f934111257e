"""The paper's notebooks under papermill: the smoke profile from text to figures, killed and continued, and every notebook changes when a parameter does."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from autoscale.corpus import open_store
from autoscale.mixture import InputError, Mixture, format_tokens, load_mixture
from autoscale.reproduce import (Places, _compare, _named, _read_state, execute, load_profile, outputs, parameters_of, parse_overrides, record_hashes, recorded, reproduce,
                                 short_name, train_again, wanted)
from autoscale.runs import RunRecord, RunSpec, RunStore, read_run_table, run_table
from autoscale.sweep import ddo_design, make_spec

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "nbs/paper"
NOTEBOOKS = [n for n in sorted(PAPER.glob("*.ipynb")) if wanted(n, "runs") or wanted(n, "published")]  # the encoder's are in test_encoder
LEFT_OUT = yaml.safe_load((PAPER / "profiles/smoke.yml").read_text())["without"]
ARTEFACTS = [n for n in NOTEBOOKS if not n.stem.startswith(("stage", "study")) and wanted(n, "runs") and n.stem not in LEFT_OUT]
PUBLISHED = [n for n in NOTEBOOKS if wanted(n, "published")]
# The smoke profile at a twentieth of its length, on text that needs no network: what is tested here is the machinery, the numbers mean nothing.
EVIDENCE = {"middle": 3 * 45 * 64, "random_mixtures": 2, "amounts": {"python_code": [9, "1/9"]},
            "scarce": "python_code", "others": 18 * 64, "ladders": {9 * 64: [1, 3], 27 * 64: [1, 2]}, "fresh": [18 * 64], "there": 64 * 64,
            "sampled_runs": 2, "doremi_tokens": 18 * 64, "doremi_rounds": 1,
            "workers": 1}  # these runs take less time than two processes to start; `made` trains in two
SMALL = {"domains": "stdlib", "scales": [3 * 27 * 64, 3 * 81 * 64], "target": 3 * 243 * 64, "evaluation_sequences": 16, "evaluations": 2}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch): monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A whole reproduction at small size, killed with SIGKILL during the sweep and started again."
    into = tmp_path_factory.mktemp("reproduction")
    command = [Path(sys.executable).with_name("autoscale"), "reproduce", "--profile", "smoke", "--into", str(into), *(f"--set={k}={json.dumps(v)}" for k, v in SMALL.items())]
    proxy = into / "records/proxy"
    with open(into / "first.log", "w") as log:
        first = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 1200
        while len(list(proxy.glob("*.json"))) < 4 and first.poll() is None and time.monotonic() < deadline:
            time.sleep(.02)
        os.kill(first.pid, signal.SIGKILL)
    first.wait()
    killed_with = {p.name: p.stat().st_mtime_ns for p in proxy.glob("*.json")}
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    return into, killed_with, second


def test_killed_and_continued(made):
    into, killed_with, second = made
    assert 4 <= len(killed_with) < 14, "the first process was not killed in the middle of the sweep"
    assert second.returncode == 0, second.stderr[-2000:]
    assert {n: (into / "records/proxy" / n).stat().st_mtime_ns for n in killed_with} == killed_with, "a finished run was trained again"
    assert len(list(RunStore(into / "records/proxy"))) == 14 and len(list(RunStore(into / "records/target"))) == 2


def test_the_summary_says_what_the_files_say(made):
    into, _, second = made
    target = load_mixture(into / "figures/stage-4-projected.json")
    assert target.total == SMALL["target"] and target.method == "autoscale" and target.epochs
    for domain, weight, tokens in zip(target.domains, target.weights, target.tokens):
        row = next(line for line in second.stdout.splitlines() if line.startswith(f"| {domain} ") and f"{tokens:,}" in line)
        assert f"{weight:.4f}" in row
    assert "14 proxy runs" in second.stdout and "2 target runs" in second.stdout
    scales = sorted(load_mixture(p).total for p in (into / "figures").glob("stage-3-ddo-*.json"))
    assert scales == SMALL["scales"]


def test_every_artefact_is_there_and_the_index_knows_its_records(made):
    into, _, _ = made
    figures = into / "figures"
    index = json.loads((figures / "index.json").read_text())
    for n in ARTEFACTS:
        kinds = ("png", "svg", "csv") if n.stem.startswith("figure") else ("csv", "md")
        files = index["made"][n.stem]["files"]
        assert files == sorted(files) and {f"{n.stem}.{k}" for k in kinds} <= set(files) and all(f.startswith(n.stem) for f in files)
        assert all((figures / f"{n.stem}.{k}").stat().st_size > 100 for k in kinds)
    assert sorted(index["records"]["proxy"]) == sorted(r.spec.hash for r in RunStore(into / "records/proxy")) and len(index["records"]["target"]) == 2
    assert len(read_run_table(figures / "stage-2-runs.csv")) == 14


def test_stage_1_tells_what_counting_reaches(made):
    "Unigram and bigram entropies against a second way to count them."
    table, store = pd.read_csv(made[0] / "figures/stage-1-corpus.csv").set_index("domain"), open_store(made[0] / "build/store")
    assert (table.unigram_nats < np.log(store.vocab_size)).all() and (table.bigram_nats < table.unigram_nats).all()
    columns = [f"bigram_nats_of_{format_tokens(total)}" for total in SMALL["scales"]]
    assert (table.bigram_nats < table[columns[1]]).all() and (table[columns[1]] < table[columns[0]]).all(), "fewer tokens tell less"
    domain = min(store.domains, key=lambda d: store.available()[d])
    train, valid = (store.tokens(domain, split).tolist() for split in ("train", "valid"))
    single, after = Counter(train), defaultdict(Counter)
    for a, b in pairwise(train): after[a][b] += 1
    def p(b): return (single[b] + 1) / (len(train) + store.vocab_size)
    def pair(a, b): return (after[a][b] + len(after[a]) * p(b)) / (sum(after[a].values()) + len(after[a])) if a in after else p(b)
    bigram = {ab: pair(*ab) for ab in set(pairwise(valid))}
    assert table.unigram_nats[domain] == pytest.approx(-np.mean([np.log(p(b)) for b in valid[1:]]), rel=1e-9)
    assert table.bigram_nats[domain] == pytest.approx(-np.mean([np.log(bigram[ab]) for ab in pairwise(valid)]), rel=1e-9)


def test_again_nothing_is_done_and_nothing_changes(made, capsys):
    into, _, _ = made
    before = {p: p.stat().st_mtime_ns for p in into.rglob("*") if p.is_file() and p.name not in ("state.json", "index.json", "index.md")}
    said = []
    reproduce("smoke", SMALL, into, say=said.append)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert sum("up to date" in line for line in said) == 7 and said[-1].startswith(f"{len(ARTEFACTS)} of {len(ARTEFACTS)} figures")


def test_a_lost_or_changed_file_is_made_again_and_only_that(made):
    into, _, _ = made
    svg = into / "figures/figure-04.svg"
    content = svg.read_bytes()
    svg.write_bytes(content[:100])
    said = []
    reproduce("smoke", SMALL, into, say=said.append)
    assert svg.read_bytes() == content, "the same numbers must give the same bytes"
    assert said[-1] == f"{len(ARTEFACTS) - 1} of {len(ARTEFACTS)} figures and tables up to date, 1 made"


def other_projection(folder):
    "Another mixture where the projection was."
    path = folder / "figures/stage-4-projected.json"
    other = {**json.loads(path.read_text()), "tokens": [64 * 60, 64 * 100, 64 * 83], "total_tokens": 64 * 243}
    path.write_text(json.dumps({k: v for k, v in other.items() if k not in ("weights", "epochs")}))


def scaled(file, factor, pattern):
    "What changes a column of numbers in a file of the figures."
    def change(folder):
        frame = pd.read_csv(folder / "figures" / file)
        frame.assign(**{c: frame[c] * factor for c in frame if re.match(pattern, c)}).to_csv(folder / "figures" / file, index=False)
    return change


def other_store(folder):
    path = folder / "records/store.json"
    path.write_text(path.read_text().replace('"vocab_size": ', '"vocab_size": 1'))


def other_cost(folder):
    path = folder / "figures/stage-5-choices.json"
    path.write_text(json.dumps([{**c, "cost": {**c["cost"], "tokens": c["cost"]["tokens"] + 64}} for c in json.loads(path.read_text())]))


# A parameter that each notebook has and its result must follow; or, where all it does is to show what stages left, what changes in that.
CHANGES = {"stage-1-corpus": {"vocab_size": 400}, "stage-2-proxy-runs": {"factor": 2}, "stage-2b-evidence": {"random_mixtures": 3}, "stage-2c-rivals": {"sampled_seed": 2}, "stage-3-ddo": {"objective": "perplexity"},
           "stage-4-projection": {"target": 4 * 3 * 81 * 64}, "stage-5-target-runs": {"target_seeds": [1]}, "stage-6-evaluation": {"task_examples": 60},
           "figure-01": scaled("stage-5-comparison.csv", 1.01, "loss|mean"), "figure-03": {"level": .5}, "figure-04": other_projection, "figure-05": other_projection, "figure-06": {"objective": "perplexity"},
           "figure-07": {"scale": 0}, "figure-08": {"floor": 1}, "figure-11": {"domain": 1}, "figure-12": {"floors": [0.0, 0.3]},
           "table-01": scaled("stage-6-tasks.csv", .5, "accuracy"), "table-02": {"floor": 1}, **dict.fromkeys(("table-03", "table-04", "table-05"), scaled("stage-5-comparison.csv", 1.01, "loss|mean")),
           "table-06": other_store, "table-10": other_cost, "study-premises": scaled("stage-2-runs.csv", 1.01, "loss"), "study-noise": {"noise_seeds": [0, 2]},
           "study-laws": {"laws": ["bimix", "regression"]}, "study-truth": {"first_seed": 2}, "study-design": {"first_seed": 2}, "study-repetition": {"ladders": {9 * 64: [1, 3], 27 * 64: [1, 4]}}}
LEFT = {"stage-1": "build/store/manifest.json", "stage-2": "figures/stage-2-runs.csv", "stage-2b": "figures/stage-2b-held-out.csv", "stage-2c": "figures/stage-2c-sampled.csv", "stage-3": "figures/stage-3-ddo-*.json",
        "stage-4": "figures/stage-4-projected.json", "stage-5": "figures/stage-5-runs.csv", "stage-6": "figures/stage-6-tasks.csv", "figure-03": "figures/figure-03-saved.csv"}
COMPARED = ("figure-01", "figure-03", "table-0", "table-10")  # artefacts of stages that have more in `evidence` than in `made`


@pytest.fixture(scope="module")
def evidence(made, tmp_path_factory):
    "What stages 2b and 5 leave beside `made`: a middle scale, mixtures off the design, more amounts of one domain; a second seed, and each scale's weights at both scales."
    into, folder = made[0], tmp_path_factory.mktemp("evidence")
    for kept in ("figures", "records"):
        shutil.copytree(into / kept, folder / kept)
    swapped = [{"target": scale, "methods": ["DDO, smaller scale", "DDO, larger scale"], "curves": False} for scale in SMALL["scales"]]
    for notebook, more in (("stage-2b-evidence", EVIDENCE), ("stage-5-target-runs", {"comparisons": [{"methods": ["uniform", "AutoScale"], "seeds": [0, 1]}, *swapped]}), ("stage-6-evaluation", {})):
        given = {**load_profile("smoke", SMALL), **more, "workers": 1, "store": str(into / "build/store"), "records": str(folder / "records"), "build": str(folder / "build"), "out": str(folder / "figures")}
        execute(PAPER / f"{notebook}.ipynb", folder / "executed.ipynb", {k: v for k, v in given.items() if k in parameters_of(PAPER / f"{notebook}.ipynb")}, show=False)
    return folder


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_changes_when_a_parameter_does(made, evidence, tmp_path, notebook):
    "Each notebook alone, on a copy of what the stages left, with one parameter or what it shows changed: what it leaves must differ."
    into, _, _ = made
    shutil.copytree(into / "build/store", tmp_path / "build/store")
    shutil.copytree(evidence / "build/weights", tmp_path / "build/weights")
    for folder in ("figures", "records"):
        shutil.copytree(evidence / folder, tmp_path / folder)
    name, change = short_name(notebook), CHANGES[notebook.stem]
    given = {**load_profile("smoke", SMALL), **EVIDENCE, "workers": 1, "store": str(tmp_path / "build/store"), "records": str(tmp_path / "records"), "build": str(tmp_path / "build"), "out": str(tmp_path / "figures")}
    if name == "stage-1":
        shutil.rmtree(tmp_path / "build/store")  # a store of other parameters is refused, not overwritten
    left, known = LEFT.get(name, f"figures/{name}.csv"), parameters_of(notebook)
    if (notebook not in ARTEFACTS and name.startswith(("figure", "table", "study", "stage-2c"))) or name.startswith(COMPARED):
        execute(notebook, tmp_path / "first.ipynb", {k: v for k, v in given.items() if k in known}, show=False)
        before = sorted(p.read_bytes() for p in tmp_path.glob(left))
    else:
        before = sorted(p.read_bytes() for p in (evidence if name == "stage-6" or not list(into.glob(left)) else into).glob(left))
    if callable(change):
        change(tmp_path)
        change = {}
    execute(notebook, tmp_path / "executed.ipynb", {k: v for k, v in {**given, **change}.items() if k in known}, show=False)
    after = sorted(p.read_bytes() for p in tmp_path.glob(left))
    assert before and len(after) == len(before) and after != before


@pytest.fixture
def clone(made, tmp_path, monkeypatch):
    "A checkout where the records of `made` are committed as those of the profile `look`, and no text is anywhere."
    into, _, _ = made
    shutil.copytree(PAPER, tmp_path / "nbs/paper", ignore=shutil.ignore_patterns("records"))
    shutil.copytree(into / "records", tmp_path / "nbs/paper/records/look")
    shutil.copytree(into / "figures", tmp_path / "figures/look")
    monkeypatch.chdir(tmp_path)
    def write(without, **changed):
        profile = {**load_profile("smoke", SMALL), "recorded": True, **changed}
        (tmp_path / "nbs/paper/profiles/look.yml").write_text(json.dumps({**profile, "without": [*profile["without"], *without]}))
        return Places.of("look")
    return write


def contents(*folders): return {p: (p.read_bytes(), p.stat().st_mtime_ns) for folder in folders for p in folder.rglob("*") if p.is_file()}


def test_a_recorded_profile_is_redrawn_without_text(made, clone):
    "A corpus that does not exist, and only records, their lists and the manifest: every byte of what is drawn comes out again."
    without = ["figure-05", "figure-06", "figure-07", "table-10"]
    places, before = clone(without, domains="nowhere"), {p.name: p.read_bytes() for p in (made[0] / "figures").iterdir()}
    for p in places.figures.iterdir():
        if not p.name.endswith("-records.json") and not p.name.startswith("stage-1"): p.unlink()
    records, said = contents(places.records), []
    text = reproduce("look", say=said.append)
    assert said[0] == "redraws from 16 committed records; to train them again: --fresh" and not (places.build / "store").exists()
    assert contents(places.records) == records and "14 proxy runs" in text and "2 target runs" in text
    drawn = {p.name: p.read_bytes() for p in places.figures.iterdir() if not p.name.startswith("index")}
    assert {f"figure-04.{kind}" for kind in ("png", "svg", "csv")} < set(drawn) and not any(name.startswith(tuple(without)) for name in drawn)
    assert drawn == {name: before[name] for name in drawn} and len(drawn) == len([n for n in before if not n.startswith(("index", *without))])
    index = json.loads((places.figures / "index.json").read_text())
    assert index["made"]["stage-1-corpus"]["files"] == ["stage-1-corpus.csv", "stage-1-corpus.md"] and list(index["records"]) == ["proxy", "target"]
    assert set(index["made"]) == {n.stem for n in NOTEBOOKS if wanted(n, "runs")} - set(load_profile("look")["without"])
    reproduce("look", say=said.append)
    assert said[-1] == "7 of 7 figures and tables up to date, 0 made" and sum(line.endswith(": up to date") for line in said) == 5
    clone(without, domains="nowhere", seeds=[5])  # a profile that asks for other runs than are recorded
    with pytest.raises(InputError, match=r"stage-2-proxy-runs: .*look/store.json: a manifest without its store, .*delete this file"): reproduce("look", say=said.append)
    with pytest.raises(InputError, match=r"stage-1-corpus: .*nowhere"): reproduce("look", fresh=True, say=said.append)
    assert not list(places.records.glob("*/*.json")) and len(list(places.build.glob("records-*/proxy/*.json"))) == 14


def test_a_missing_record_is_trained_alone_and_again_to_the_same_bits(clone):
    places = clone([n.stem for n in NOTEBOOKS if short_name(n) not in ("stage-1", "stage-2") and n.stem not in LEFT_OUT])
    lost = RunStore(places.records / "proxy").named(record_hashes(places, "proxy"))[0]
    path = places.records / f"proxy/{lost.spec.hash}.json"
    path.unlink()
    before, said = contents(places.records / "proxy"), []
    lists = {p.name: p.read_bytes() for p in [places.records / "store.json", places.figures / "stage-2-records.json"]}
    text = reproduce("look", say=said.append)
    after = contents(places.records / "proxy")
    assert after.pop(path) and after == before, "only the missing run is trained"
    assert said[0] == "not every record is here: begins with the text, and trains what is missing" and (places.build / "store").is_dir()
    assert {p.name: p.read_bytes() for p in [places.records / "store.json", places.figures / "stage-2-records.json"]} == lists
    assert "14 proxy runs" in text and "target runs" not in text  # a profile without stage 5
    assert "Made from 14 proxy runs; their hashes" in (places.figures / "index.md").read_text()

    shutil.rmtree(places.build / "store")  # then it is built for the run
    committed = contents(places.records, places.figures)
    command = [Path(sys.executable).with_name("autoscale"), "reproduce", "--profile", "look", "--again", lost.spec.hash[:8]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    new, = RunStore(places.build / "again")
    old, = RunStore(places.records / "proxy").named([lost.spec.hash])
    assert new.losses == old.losses and new.curve == old.curve and new.finished_at >= old.finished_at
    assert done.stdout.splitlines()[-1] == "The mean differs by 0 nats per token, and no runs like it were recorded with several seeds, so there is no saying whether that is much; every loss is bit for bit the recorded one."
    row = next(line for line in done.stdout.splitlines() if line.startswith("| mean"))
    assert row.count(f"{old.mean_loss:.5f}") == 2 and contents(places.records, places.figures) == committed

    from autoscale.corpus import build_store
    from autoscale.registry import domain_sources
    shutil.rmtree(places.build / "store")
    build_store(places.build / "store", domain_sources("stdlib"), vocab_size=400, progress=False)
    with pytest.raises(InputError, match=f"is token store .*was trained on {lost.spec.store[:16]}"): train_again(lost.name, "look")


def test_a_run_is_named_by_hash_or_name():
    def record(seed, name): return RunRecord(RunSpec(Mixture.uniform("ab", 128), "store", {}, {}, 64, 1, seed), name, "finished", losses={"a": 3. + seed, "b": 5.})
    one, two, other = records = [record(0, "base"), record(1, "base"), record(2, "a x3")]
    assert _named(records, "a x3") == other and _named(records, two.spec.hash) == two and _named([*records, one], one.spec.hash[:6]) == one
    for wrong in ("a x", other.spec.hash[:5], "", "0" * 16):
        with pytest.raises(InputError, match=r"no record has the name .*'a x3'.*"): _named(records, wrong)
    with pytest.raises(InputError, match=f"2 runs.*{one.spec.hash} .base, seed 0.*{two.spec.hash} .base, seed 1"): _named(records, "base")


def test_losses_are_compared_with_the_noise_of_such_runs():
    "Two mixtures with three and two seeds: their mean losses have variances of 0.0025 and 0.0009, pooled over 3 degrees of freedom; a run with another batch or four times the length does not count."
    spec = RunSpec(Mixture.uniform("ab", 128), "store", {}, {}, 64, 1)
    def record(seed, a, b, **other): return RunRecord(RunSpec.from_dict({**spec.to_dict(), "seed": seed, **other}), "base", "finished", losses={"a": a, "b": b})
    more = {"mixture": {"domains": ["a", "b"], "tokens": [96, 64]}}; longer = {"mixture": {"domains": ["a", "b"], "tokens": [256, 256]}}
    seeds = [record(0, 3., 5.), record(1, 3.1, 5.), record(2, 3.2, 5.)]
    records = [*seeds, seeds[0], record(0, 4., 4., **more), record(1, 4., 4. + .06 * 2 ** .5, **more), record(3, 9., 9., batch=2), record(0, 1., 1., **longer), record(1, 7., 7., **longer)]
    def said(a): return _compare(seeds[0], record(0, a, 5.), records).splitlines()
    noise = ((2 * .0025 + .0009) / 3) ** .5; limit = 2 * 2 ** .5 * noise
    within, outside, same = said(3. + 1.9 * limit), said(3. + 2.1 * limit), said(3.)
    assert f"within what two seeds differ by ({limit:.5f}: 2 standard deviations, 3 degrees of freedom)" in within[-1] and within[-1].endswith("the losses are not bit for bit the recorded ones.")
    assert "outside what two seeds differ by" in outside[-1] and "by 0 nats" in same[-1] and same[-1].endswith("every loss is bit for bit the recorded one.")
    assert [cell.strip() for cell in within[5].split("|")[1:-1]][:2] == ["mean", "4.00000"] and within[5].split("|")[-2].strip() == f"{noise:.5f}"
    once = _compare(record(0, 4., 4., **longer), record(0, 4., 4., **longer), records[:4])
    assert "no saying whether that is much" in once and once.count(" - |") == 3


def would_run(folder, *given, **more):
    "What `make reproduce` in this folder would run."
    env = {k: v for k, v in os.environ.items() if k not in ("PROFILE", "MAKEFLAGS", "MFLAGS", "MAKELEVEL")}  # as if from a shell, also under `make test`
    shutil.copy(ROOT / "Makefile", folder)
    return subprocess.run(["make", "-n", "-o", ".venv/.installed", "reproduce", *given], cwd=folder, env={**env, **more}, capture_output=True, text=True, check=True).stdout


def test_make_reproduce_redraws_mini_but_never_trains_it(clone, tmp_path):
    "With `look` as mini: redrawn where every record is here; where one is not, one line says how to go on, and nothing is fetched or trained."
    look = clone([n.stem for n in NOTEBOOKS if short_name(n) not in ("stage-1", "stage-2") and n.stem not in LEFT_OUT], domains="nowhere")
    (look.notebooks / "profiles/look.yml").replace(look.notebooks / "profiles/mini.yml")
    mini = Places.of("mini")
    look.records.rename(mini.records); look.figures.rename(mini.figures)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    first, redraw = would_run(tmp_path).splitlines()
    assert first == '.venv/bin/autoscale reproduce --profile "smoke"' and recorded("mini") == 14 and recorded("smoke") == 0
    run = lambda: subprocess.run(["sh", "-c", redraw], cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    done = run()
    assert done.returncode == 0 and done.stdout.startswith("redraws from 14 committed records"), done.stderr[-2000:]
    next((mini.records / "proxy").glob("*.json")).unlink()
    before, done = contents(mini.records, mini.figures, mini.build), run()
    assert recorded("mini") == 0 and (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert "autoscale reproduce --profile mini" in done.stdout and "git checkout" in done.stdout and contents(mini.records, mini.figures, mini.build) == before


def test_make_reproduce_leaves_mini_alone_where_a_profile_is_given(tmp_path):
    for one in (would_run(tmp_path, "PROFILE=smoke"), would_run(tmp_path, PROFILE="smoke")): assert '--profile "smoke"' in one and "mini" not in one
    mini = would_run(tmp_path, "PROFILE=mini")
    assert '--profile "mini"' in mini and mini.count("mini") == 1


def test_parameters_of_the_smoke_profile_are_the_notebooks_defaults():
    "Whoever opens a stage in Jupyter runs the smoke profile."
    profile = load_profile("smoke")
    for n in NOTEBOOKS:
        for name, default in parameters_of(n).items():
            if name in profile:
                assert eval(default.partition("#")[0]) == profile[name], f"{n.name}: {name}"


def test_published_numbers_without_torch(tmp_path):
    "`--source published` in an environment where torch cannot be imported: every typed number of the authors comes out again."
    (tmp_path / "block/torch").mkdir(parents=True)
    (tmp_path / "block/torch/__init__.py").write_text("raise ModuleNotFoundError('torch is not installed here', name='torch')")
    done = subprocess.run([Path(sys.executable).with_name("autoscale"), "reproduce", "--source", "published", "--into", tmp_path / "made"], cwd=ROOT, capture_output=True, text=True, timeout=1200,
                          env={**os.environ, "PYTHONPATH": str(tmp_path / "block")})
    assert done.returncode == 0, done.stderr[-2000:]
    compared = 0
    for n in PUBLISHED:
        if n.stem == "figure-11": continue  # a drawing of the method; no number of its own
        check = pd.read_csv(tmp_path / f"made/figures/{n.stem}-check.csv").query("reading_error == 0")
        assert (check.difference.abs() < (1e-5 if n.stem == "figure-06" else 1e-8)).all(), n.stem  # the authors print their fit with six decimals, the rest with eight or more
        compared += len(check)
    assert [n.stem for n in PUBLISHED] == ["figure-04", "figure-05", "figure-06", "figure-07", "figure-08", "figure-11", "figure-12", "table-02"] and compared == 92


def test_one_byte_of_the_store_is_noticed_though_its_size_is_the_same(tmp_path):
    places = Places(PAPER, tmp_path / "build", tmp_path / "records", tmp_path / "figures")
    store = places.build / "store"
    (store / "tokenizer").mkdir(parents=True)
    for name in ("a.train.bin", "manifest.json", "tokenizer/tokenizer.json"):
        (store / name).write_bytes(b"one")
    before = outputs(places, "stage-1")
    assert len(before) == 3 and outputs(places, "stage-1") == before
    for name in ("a.train.bin", "tokenizer/tokenizer.json"):
        (store / name).write_bytes(b"two")
        assert outputs(places, "stage-1") != before
        (store / name).write_bytes(b"one")


def test_files_belong_to_the_name_that_they_begin_with(tmp_path):
    places = Places(PAPER, tmp_path / "build", tmp_path / "records", tmp_path)
    files = {"stage-2": ["stage-2-runs.csv", "stage-2.md"], "stage-2b": ["stage-2b-records.json", "stage-2b.csv"], "figure-04": ["figure-04-check.csv", "figure-04.csv"], "figure-041": ["figure-041.csv"]}
    for name in (n for its in files.values() for n in its): (tmp_path / name).write_text("x")
    for name, its in files.items(): assert [Path(p).name for p in outputs(places, name)] == its
    assert short_name(Path("stage-2b-evidence.ipynb")) == "stage-2b"


def test_a_damaged_state_or_list_of_records_counts_as_nothing_done(tmp_path):
    path, said = tmp_path / "state.json", []
    assert _read_state(path, said.append) == {} and said == []
    state = {"stage-1": {"key": "k", "outputs": {"file": "0"}}}
    text = json.dumps(state)
    path.write_text(text)
    assert _read_state(path, said.append) == state and said == []
    for damaged in (*(text[:cut] for cut in range(len(text))), "[]", "7", '{"stage-1": 7}', '{"stage-1": {}}'):
        path.write_text(damaged)
        assert _read_state(path, said.append) == {} and said.pop() == f"{path} is damaged; taken as nothing done"
    places = Places(PAPER, tmp_path, tmp_path, tmp_path)
    (tmp_path / "stage-2-records.json").write_text('["01')
    assert record_hashes(places, "proxy") == []


def test_what_a_notebook_cannot_write_is_one_line(tmp_path):
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises(InputError, match=r"table-02: .*figures"):
        execute(PAPER / "table-02.ipynb", tmp_path / "x.ipynb", {"source": "published", "out": str(tmp_path / "figures")}, show=False)


def test_refusals(tmp_path):
    with pytest.raises(InputError, match=r"no profile 'huge'; there are .*smoke"):
        load_profile("huge")
    with pytest.raises(InputError, match="no notebook has a parameter without, recorded"):
        reproduce("smoke", {"without": [], "recorded": True}, tmp_path)
    with pytest.raises(InputError, match="no notebook has a parameter tagret"):
        reproduce("smoke", {"tagret": 1}, tmp_path)
    with pytest.raises(InputError, match="write name=value"):
        parse_overrides(["target"])
    with pytest.raises(InputError, match=r"stage-2-proxy-runs: .*not in the optimiser|stage-2-proxy-runs: the optimiser has no setting 'lr'"):
        execute(PAPER / "stage-2-proxy-runs.ipynb", tmp_path / "x.ipynb", {"optimiser": {"lr": 1}, "store": str(_store(tmp_path)), "records": str(tmp_path), "out": str(tmp_path)}, show=False)
    shutil.copytree(PAPER, tmp_path / "nbs/paper", ignore=shutil.ignore_patterns("records"))
    os.chdir(tmp_path / "nbs")
    (tmp_path / "nbs/paper/profiles/odd.yml").write_text("without: [figure-99]")
    with pytest.raises(InputError, match=r"odd.yml: without: there is no notebook figure-99; there are .*figure-04"):
        load_profile("odd")
    os.chdir(tmp_path.parent)
    with pytest.raises(InputError, match="not inside a checkout"):
        load_profile("smoke")


def _store(folder):
    from autoscale.corpus import build_store
    from autoscale.registry import domain_sources
    return build_store(folder / "store", domain_sources("stdlib"), vocab_size=400, progress=False).path


def test_the_readme_quotes_the_noise_study():
    "Every row of the README's table of settings is one of the recorded study, digit for digit."
    section = (ROOT / "README.md").read_text().partition("### A proxy one can believe")[2].partition("\n### ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("|")]
    assert len(quoted) >= 8 and set(quoted) <= set((ROOT / "figures/mini/study-noise.md").read_text().splitlines())
    assert "REDRAW" not in section and "FRESH" not in section


def test_the_band_of_the_noise_study_is_the_smallest_effect_of_mini():
    effects = pd.read_csv(ROOT / "figures/mini/study-premises.csv").mean_change.abs()
    assert load_profile("mini")["smallest_effect"] == round(effects.min(), 2)


@pytest.mark.parametrize(("name", "kinds"), [("mini", ("proxy", "evidence", "target", "noise", "rivals")), ("encoder", ("proxy", "target", "noise"))])
def test_the_records_of_a_profile_are_what_it_asks_for(name, kinds):
    "Every specification that the profile asks for is recorded, trained on the store whose manifest is beside it, and is what the run table says."
    places, profile = Places.of(name), load_profile(name)
    store = open_store(places.records / "store.json")
    listed = {kind: record_hashes(places, kind) for kind in kinds}
    settings = {k: profile[k] for k in ("model", "optimiser", "context", "batch", "precision", "evaluation_sequences")} | {"masked": profile.get("masked")}
    wanted_now = {make_spec(mixture, store.hash, settings, seed).hash for total in profile["scales"] for _, mixture in ddo_design(Mixture.uniform(profile.get("trained") or store.domains, total, multiple=profile["context"]), profile["factor"], multiple=profile["context"])
                  for seed in profile["seeds"]}
    assert wanted_now == set(listed["proxy"])
    for kind, hashes in listed.items():
        assert all(r.spec.store == store.hash and r.status == "finished" for r in RunStore(places.records / kind).named(hashes))
        assert {p.stem for p in (places.records / kind).glob("*.json")} == set(hashes)
    compared = pd.read_csv(places.figures / "stage-5-comparison.csv")
    asked = {(c["target"], method, seed) for c in profile["comparisons"] for method in c["methods"] for seed in c.get("seeds", profile["target_seeds"])}
    assert set(zip(compared.target, compared.method, compared.seed)) == asked and set(compared.run) == set(listed["target"])
    if "rivals" in kinds: assert len(listed["rivals"]) == len(read_run_table(places.figures / "stage-2c-sampled.csv")) + 2 * profile["doremi_rounds"] * len(profile["doremi_seeds"])
    for kind, stage in (("proxy", "stage-2-runs"), ("target", "stage-5-runs")):
        table, made = read_run_table(places.figures / f"{stage}.csv"), run_table(RunStore(places.records / kind).named(listed[kind]))
        assert table.runs == made.runs and (table.tokens == made.tokens).all() and (table.losses == made.losses).all()
