"""The encoder's profile under papermill, at a twentieth of its length: from text to fine-tuned scores, and each of its notebooks changes when a parameter does."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from autoscale.reproduce import Places, execute, load_profile, parameters_of, reproduce, short_name, wanted
from autoscale.runs import RunStore, read_run_table

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "nbs/paper"
ENCODERS = [n for n in sorted(PAPER.glob("*.ipynb")) if wanted(n, "runs", masked=True) and not wanted(n, "runs")]
BERT = {"model_type": "bert", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
TRAINED = ["python_docs", "python_code"]  # python_docstrings is only judged
SMALL = {"domains": "stdlib", "trained": TRAINED, "vocab_size": 400, "model": BERT, "optimiser": {"learning_rate": 0.004}, "context": 64, "batch": 4, "evaluation_sequences": 16, "evaluations": 2,
         "scales": [2 * 27 * 64, 2 * 108 * 64], "seeds": [0], "target": 2 * 243 * 64, "target_seeds": [0, 1], "comparisons": [{"methods": ["uniform", "DDO, larger scale", "AutoScale"]}],
         "noise_seeds": [0, 1], "variants": {"as chosen": {}, "half the learning rate": {"optimiser": {"learning_rate": 0.002}}},
         "finetune_tasks": ["bbc"], "finetune_seeds": [0, 1], "finetune_examples": 60, "finetune_epochs": 1, "compile": False, "workers": 1, "stack": 3}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch): monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    into = tmp_path_factory.mktemp("encoder")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        said = []
        reproduce("encoder", SMALL, into, say=said.append)
    return into, said


def test_from_text_to_scores(made):
    "Masked runs on two domains, judged on three; the objective counts the two; weights, losses and scores are in the tables."
    into, _ = made
    figures = into / "figures"
    table = read_run_table(figures / "stage-2-runs.csv")
    assert table.domains == table.validation == tuple(TRAINED) and len(table) == 10
    records = list(RunStore(into / "records/proxy"))
    assert len(records) == 10 and all(r.spec.masked == 0.15 and set(r.losses) == {*TRAINED, "python_docstrings"} and not r.bits_per_byte for r in records)
    compared = pd.read_csv(figures / "stage-5-comparison.csv")
    assert {"loss.python_docstrings", "loss.python_docs"} < set(compared) and (compared["mean"] - compared[[f"loss.{d}" for d in TRAINED]].mean(axis=1)).abs().max() < 1e-12
    scores = pd.read_csv(figures / "stage-7-finetune.csv")
    assert set(scores.method) == {"untrained", "uniform", "DDO, larger scale", "AutoScale"} and len(scores) == 4 * 2 * 2 and scores.value.between(0, 1).all()
    index = json.loads((figures / "index.json").read_text())
    for n in ENCODERS:
        kinds = ("png", "svg", "csv") if n.stem.startswith("figure") else ("csv", "md") if n.stem.startswith("table") else ()
        assert n.stem in index["made"] and all((figures / f"{n.stem}.{k}").stat().st_size > 100 for k in kinds)
    assert "never trained on" in (figures / "figure-02.svg").read_text() and "python_docstrings" in (figures / "table-08.md").read_text()
    assert "| domains only judged" in (figures / "table-07.md").read_text() and "1: python_docstrings" in (figures / "table-07.md").read_text()


def test_again_nothing_is_trained(made, capsys):
    into, said = made
    before = {p: p.stat().st_mtime_ns for kind in ("records", "build/weights") for p in (into / kind).rglob("*") if p.is_file()}
    said = []
    reproduce("encoder", SMALL, into, say=said.append)
    assert {p: p.stat().st_mtime_ns for p in before} == before and not any("made" in line and "0 made" not in line for line in said)


def louder(folder):
    "Other losses where stage 5 left its comparison."
    path = folder / "figures/stage-5-comparison.csv"
    frame = pd.read_csv(path)
    frame.assign(**{c: frame[c] * 1.01 for c in frame if c.startswith("loss.") or c == "mean"}).to_csv(path, index=False)


def better(folder):
    path = folder / "figures/stage-7-finetune.csv"
    frame = pd.read_csv(path)
    frame.assign(value=frame.value * 0.9).to_csv(path, index=False)


def other_choice(folder):
    "Other tokens where stage 5 wrote what AutoScale chose."
    path = folder / "figures/stage-5-choices.json"
    path.write_text(json.dumps([{**{k: v for k, v in c.items() if k not in ("weights", "epochs")}, "tokens": c["tokens"][::-1]} for c in json.loads(path.read_text())]))


def other_store(folder):
    path = folder / "records/store.json"
    path.write_text(path.read_text().replace('"vocab_size": ', '"vocab_size": 1'))


CHANGES = {"figure-02": {"methods": ["uniform", "AutoScale"]}, "figure-09": other_choice, "figure-10": {"level": 0.5}, "table-07": other_store, "table-08": louder, "table-09": better, "stage-7-finetune": {"finetune_seeds": [0, 2]}}
LEFT = {"stage-7": "stage-7-finetune.csv", "figure-10": "figure-10-saved.csv"}


@pytest.mark.parametrize("notebook", ENCODERS, ids=lambda n: n.stem)
def test_changes_when_a_parameter_does(made, tmp_path, notebook):
    into, _ = made
    for folder in ("figures", "records", "build"):
        shutil.copytree(into / folder, tmp_path / folder)
    name, change = short_name(notebook), CHANGES[notebook.stem]
    left = tmp_path / "figures" / LEFT.get(name, f"{name}.csv")
    before = left.read_bytes()
    if callable(change):
        change(tmp_path)
        change = {}
    given = {**load_profile("encoder", SMALL), **change, "store": str(tmp_path / "build/store"), "records": str(tmp_path / "records"), "build": str(tmp_path / "build"), "out": str(tmp_path / "figures")}
    execute(notebook, tmp_path / "executed.ipynb", {k: v for k, v in given.items() if k in parameters_of(notebook)}, show=False)
    assert left.read_bytes() != before


def test_every_notebook_belongs_somewhere():
    "What hides tokens by default is run by encoder profiles and by no other; the rest by others, or from the authors' numbers."
    assert {n.stem for n in ENCODERS} == {"figure-02", "figure-09", "figure-10", "stage-7-finetune", "table-07", "table-08", "table-09"}
    assert all(wanted(n, "runs") or wanted(n, "published") for n in PAPER.glob("*.ipynb") if n not in ENCODERS)
    assert Places.of("encoder").records == ROOT / "nbs/paper/records/encoder"


def test_a_wordpiece_of_the_same_text_is_told_from_another_text():
    from autoscale.corpus import open_store
    from autoscale.reproduce import _same_text
    recorded = open_store(ROOT / "nbs/paper/records/encoder/store.json")
    other = json.loads(json.dumps(recorded.manifest))
    other["tokenizer"]["sha256"] = "0" * 64; other["domains"]["books"]["train"] |= {"sha256": "1" * 64, "tokens": other["domains"]["books"]["train"]["tokens"] + 3}
    assert _same_text(replace(recorded, manifest=other), recorded)
    other["domains"]["books"]["train"]["bytes"] += 1
    assert not _same_text(replace(recorded, manifest=other), recorded)
