"""Exports: weights as they are written, read back by each framework's own code where it can be installed (the extra `frameworks`), else by a parser written after that code; then drawn from."""
import ast
import collections
import json
import math
import random
import shlex
import types
from fractions import Fraction

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.export import FRAMEWORKS, block_counts, decimal_weights, export_mixture, yaml_string
from autoscale.mixture import InputError, Mixture, load_mixture

LENGTHS = {"abstracts": 50, "papers": 200, "books": 800}  # mean tokens per document

# ---- parsers: files -> [(domain or None, path, weight)], as each framework reads them ----

def blend(pairs):
    from megatron.core.datasets.utils import get_blend_from_list
    paths, weights = get_blend_from_list(pairs)
    return [(None, p, w) for p, w in zip(paths, weights)]

def megatron(files):
    "All three ways in, after get_blend_and_blend_per_split (megatron/training/utils.py): argv, `f.read().split()`, and a JSON with three keys."
    command, *pairs = shlex.split(files["data_path.txt"])
    assert command == "--data-path"
    splits = json.loads(files["per_split_data_args.json"])
    assert set(splits) == {"train", "valid", "test"} and splits["train"] == pairs
    if "data_args.txt" in files: assert files["data_args.txt"].split() == pairs
    else: assert any(c.isspace() for p in pairs for c in p)
    return blend(pairs)

def nemo(files):
    prefix = yaml.safe_load(files["nemo_data.yaml"])["model"]["data"]["data_prefix"]
    return [(None, p, w) for w, p in zip(prefix[::2], prefix[1::2])]

def streaming(files):
    "`Stream` in Python and llm-foundry's `streams` in YAML agree; at most one of remote and local, and a proportion for every stream (Stream.validate_weights)."
    class Stream:
        def __init__(self, proportion, local=None, remote=None): self.read = (None, local or remote, proportion)
    module = run_python(files["streams.py"], streaming=dict(Stream=Stream, StreamingDataset=lambda streams, **settings: settings))
    loader = yaml.safe_load(files["streams.yaml"])["train_loader"]["dataset"]
    assert loader.get("epoch_size") == module["mixture"]().get("epoch_size")
    rows = [(d, s.get("local") or s.get("remote"), s["proportion"]) for d, s in loader["streams"].items()]
    assert [r[1:] for r in rows] == [s.read[1:] for s in module["streams"]]
    return rows

def hugging_face(files):
    sources = next(ast.literal_eval(node.value) for node in ast.parse(files["interleave.py"]).body if isinstance(node, ast.Assign))
    return [(d, *paths, p) for d, (p, paths) in sources.items()]

def olmo(files):
    "SourceMixtureConfig: 0 < target_ratio <= 1, paths not empty, max_repetition_ratio >= 1 (olmo_core/data/source_mixture.py, validate)."
    sources = yaml.safe_load(files["source_mixture.yaml"])["sources"]
    assert all(0 < s["target_ratio"] <= 1 and s["paths"] and s.get("max_repetition_ratio", 1.) >= 1 for s in sources)
    return [(s["source_name"], *s["paths"], s["target_ratio"]) for s in sources]

def nanotron(files):
    "NanosetDatasetsArgs: as many dataset_weights as dataset_folder (nanotron/config/config.py); a stage starts at 1."
    stage, = yaml.safe_load(files["nanotron_data.yaml"])["data_stages"]
    assert stage["start_training_step"] == 1
    dataset = stage["data"]["dataset"]
    assert len(dataset["dataset_folder"]) == len(dataset["dataset_weights"])
    return [(None, p, w) for p, w in zip(dataset["dataset_folder"], dataset["dataset_weights"])]

def torchtitan(files):
    "The dataclasses of torchtitan/components/data: a mix of packed single datasets, weights finite and above 0 (DatasetMixConfig.build)."
    config = lambda name: type(name, (), {"__init__": lambda self, **fields: self.__dict__.update(fields)})
    names = ("ConcatThenSplitPackingConfig", "DatasetMixConfig", "SingleDatasetConfig", "WeightedDataset")
    data = {name: config(name) for name in names} | {"IndexedJsonlSource": types.SimpleNamespace(Config=config("Source"))}
    module = run_python(files["torchtitan_mix.py"], **{"torchtitan.components.data": data, "torchtitan.hf_datasets.text_datasets": {"TextProcessor": types.SimpleNamespace(Config=config("Processor"))}})
    children = module["mixture"].datasets
    assert all(type(c.dataset).__name__ == "ConcatThenSplitPackingConfig" and 0 < c.weight < math.inf for c in children)
    return [(None, *c.dataset.dataset.source.patterns, c.weight) for c in children]

def levanter(files):
    "LmDataConfig: the keys of train_weights are components, a block is shorter than 2**16 (levanter/data/text/datasets.py, data/mixture.py)."
    data = yaml.safe_load(files["levanter_data.yaml"])["data"]
    assert set(data["train_weights"]) == set(data["components"]) and data["mixture_block_size"] < 2**16
    return [(d, *data["components"][d]["source"]["train_urls"], w) for d, w in data["train_weights"].items()]

def lingua(files):
    data = yaml.safe_load(files["lingua_data.yaml"])["data"]
    return [(None, data["root_dir"] + source, w) for source, w in data["sources"].items()]

def neox(files):
    config = yaml.safe_load(files["neox_data.yml"])
    return [(None, p, w) for p, w in zip(config["train-data-paths"], config["train-data-weights"], strict=True)]

def own(files):
    content = json.loads(files["mixture.json"])
    return [(d, None, w) for d, w in zip(content["domains"], content["weights"]) if w]

PARSERS = {"megatron-lm": megatron, "nemo": nemo, "mosaicml-streaming": streaming, "hf-datasets": hugging_face, "olmo-core": olmo, "nanotron": nanotron, "torchtitan": torchtitan,
           "levanter": levanter, "lingua": lingua, "gpt-neox": neox, "json": own}

def run_python(text, **modules):
    "Run an exported file where `modules` are what it imports."
    namespace = {"__builtins__": {**__builtins__, "__import__": lambda name, *_: types.SimpleNamespace(**modules[name])}}
    exec(compile(text, "export", "exec"), namespace)
    return namespace

def test_every_framework_has_a_parser(): assert set(PARSERS) == set(FRAMEWORKS)

# ---- what is written is what was meant ----

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(["stack exchange", "C#: 'a' \"b\"", "维基", "😀", "a\nb", "\u2028", "\x85x", "- 1", "~", "yes", "1e3", "{x}", "é", "${HOME}", "%20", "&a", "*a", "!b", "#", " x "])
mixtures = st.lists(st.tuples(names, st.integers(0, 10**12) | st.integers(1, 100)), min_size=1, max_size=200, unique_by=lambda x: x[0]).filter(lambda x: any(n for _, n in x)).map(lambda x: Mixture(*zip(*x)))

@pytest.mark.parametrize("framework", FRAMEWORKS)
@given(mixture=mixtures, seed=st.integers(0, 99), own_paths=st.booleans())
@settings(deadline=None, derandomize=True, max_examples=30)
def test_a_parser_gets_back_names_paths_and_weights(framework, mixture, seed, own_paths):
    rng = random.Random(seed)
    there = [d for d, n in zip(mixture.domains, mixture.tokens) if n]
    per_document = {d: rng.uniform(1, 10**5) for d in mixture.domains}
    paths = {d: f"/data/{i} {d.strip()}".replace("\0", "").strip() for i, d in enumerate(mixture.domains)} if own_paths else None
    e = export_mixture(mixture, framework, paths=paths, tokens_per_document=per_document)
    assert list(e.weights) == there and sum(map(Fraction, e.weights.values())) == 1 and all(len(w.split(".")[1]) >= 6 for w in e.weights.values())
    rows = PARSERS[framework](e.files)
    assert [float(w) for w in e.weights.values()] == [w for *_, w in rows] and all(w > 0 for *_, w in rows)
    assert abs(math.fsum(w for *_, w in rows) - 1) <= 2**-52
    assert [d for d, *_ in rows] in ([None] * len(rows), there)
    if own_paths and framework != "json": assert [p for _, p, _ in rows] == [paths[d] for d in there]
    elif framework != "json": assert len({p for _, p, _ in rows}) == len(rows) and all(p.startswith("PATH/") for _, p, _ in rows)
    exact = np.array([n / per_document[d] if FRAMEWORKS[framework].per == "document" else n for d, n in zip(mixture.domains, mixture.tokens) if n], object)
    digit = Fraction(1, 10**len(next(iter(e.weights.values())).split(".")[1]))
    if framework != "levanter":  # whose least weight is one sequence of a block
        smallest = min(exact) / sum(exact)
        bound = digit if smallest > 1e-9 else digit * len(there)  # 15 digits leave a domain below 1e-15 one unit that others pay for
        assert all(abs(Fraction(w) - Fraction(x) / Fraction(sum(exact))) <= bound * (1 + Fraction(1, 10**6)) for w, x in zip(e.weights.values(), exact))

@given(st.text(max_size=30))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_yaml_strings_are_read_back(text): assert yaml.safe_load(yaml_string(text)) == text and "\n" not in yaml_string(text)

@given(st.lists(st.integers(1, 10**12), min_size=2, max_size=60), st.integers(0, 10**9))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_weights_stay_below_caps_that_leave_room(tokens, seed):
    rng, total = random.Random(seed), sum(tokens)
    shares = [Fraction(n, total) for n in tokens]
    caps = [s * Fraction(999_999 + rng.randrange(3), 10**6) if rng.random() < .5 else Fraction(1) for s in shares[:-1]] + [Fraction(1)]
    weights = [Fraction(w) for w in decimal_weights(shares, caps=caps)]
    assert sum(weights) == 1 and min(weights) > 0
    assert all(w <= c for w, c in zip(weights, caps))

def test_documents_give_the_tokens_that_were_meant():
    mixture = Mixture(tuple(LENGTHS), (10**6, 2 * 10**6, 5 * 10**6))
    for framework in ("hf-datasets", "lingua"):
        p = export_mixture(mixture, framework, tokens_per_document=LENGTHS).weights
        tokens = np.array([float(p[d]) * LENGTHS[d] for d in LENGTHS])
        assert tokens / tokens.sum() == pytest.approx(mixture.weights, rel=2e-5)

# ---- epochs ----

@pytest.mark.parametrize("framework", ["megatron-lm", "nemo", "mosaicml-streaming", "nanotron", "gpt-neox", "olmo-core"])
@given(scarce=st.lists(st.integers(10_000, 10**7), min_size=1, max_size=20), passes=st.lists(st.integers(1, 4), min_size=20, max_size=20), length=st.sampled_from([None, 100, 1024]))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_no_domain_enters_an_epoch_that_was_not_planned(framework, scarce, passes, length):
    "Domains planned for whole epochs, one of them with room: what the framework draws at most stays inside, unless a note names the domain."
    domains = [f"d{i}" for i in range(len(scarce))] + ["web"]
    tokens = [n * e for n, e in zip(scarce, passes)] + [10**9]
    available = {**dict(zip(domains, scarce)), "web": 10**10}
    e = export_mixture(Mixture(tuple(domains), tuple(tokens)), framework, available=available, sequence_length=length)
    size = length if length and FRAMEWORKS[framework].per == "sequence" else 1
    run, extra = sum(tokens) // size, FRAMEWORKS[framework].extra_tokens if length else 0  # without a length epochs are counted in tokens
    for d, n, k in zip(domains, scarce, passes):
        w = Fraction(e.weights[d])
        most = {"mosaicml-streaming": math.floor(w * run) + 1, "olmo-core": w * run}.get(framework, math.ceil(w * run))
        holds = {"mosaicml-streaming": k * (n // size), "nanotron": k * (n // (size + extra)), "olmo-core": k * n}.get(framework, (k * n - extra) // size)
        assert most <= holds or any(note.startswith(f"{d!r} may go beyond") for note in e.notes)
        assert e.epochs[d] == pytest.approx(k, rel=2e-3)

def test_rounding_down_at_an_epoch_is_done_and_its_impossibility_is_said():
    scarce, there = Mixture(("web", "scarce"), (8_749_994, 1_250_006)), {"web": 50_000_000, "scarce": 1_250_006}
    assert export_mixture(scarce, "megatron-lm").weights == {"web": "0.874999", "scarce": "0.125001"}
    e = export_mixture(scarce, "megatron-lm", available=there)
    assert e.weights == {"web": "0.875000", "scarce": "0.125000"} and e.epochs["scarce"] < 1 and not any("beyond" in n for n in e.notes)
    e = export_mixture(scarce, "megatron-lm", available=there, sequence_length=4096)  # 305 sequences of 4096 and a rest
    assert math.ceil(Fraction(e.weights["scarce"]) * (10**7 // 4096)) == 305
    exact = Mixture(("web", "scarce"), (7_500_000, 2_500_000))  # 25,000 sequences of 100, and streaming may choose one more
    e = export_mixture(exact, "mosaicml-streaming", available={"web": 10**8, "scarce": 2_500_000}, sequence_length=100)
    assert math.floor(Fraction(e.weights["scarce"]) * 10**5) + 1 == 25_000
    every = export_mixture(scarce, "megatron-lm", available=dict(zip(scarce.domains, scarce.tokens)), sequence_length=128)
    assert any(n.startswith("'scarce' may go beyond 1 epoch: up to 9,766 sequences are drawn and there are 9,765") for n in every.notes)

@pytest.mark.parametrize("framework", ["megatron-lm", "nemo", "mosaicml-streaming", "nanotron", "gpt-neox", "olmo-core"])
def test_the_nearest_decimal_gives_way_to_an_epoch(framework):
    "0.1250006 of ten million tokens is all there is: 0.125001 would enter a second epoch. Two epochs of half as much are no different, and with room the nearest decimal stands."
    scarce = Mixture(("web", "scarce"), (8_749_994, 1_250_006))
    weight = lambda there: export_mixture(scarce, framework, available={"web": 10**9, "scarce": there}).weights["scarce"]
    assert weight(2_000_000) == "0.125001" and weight(1_250_006) == weight(625_003) == "0.125000"

@pytest.mark.parametrize("framework", ["megatron-lm", "nemo", "mosaicml-streaming", "gpt-neox"])
def test_one_sequence_less_than_the_framework_may_draw_takes_one_digit(framework):
    "250,000 sequences: the last of a text has no target of its own (Megatron's family), or one more may be chosen (streaming)."
    quarter = Mixture(("a", "b"), (25_000_000, 75_000_000))
    exports = [export_mixture(quarter, framework, available={"a": there, "b": 10**10}, sequence_length=100) for there in (25_000_100, 25_000_000)]
    assert [e.weights["a"] for e in exports] == ["0.250000", "0.249999"] and not any("beyond" in n for e in exports for n in e.notes)

def test_a_last_target_in_every_sequence_is_no_rounding_and_is_said():
    "nanotron: 25 million tokens are 247,524 sequences of 100 and the token after each."
    quarter = Mixture(("a", "b"), (25_000_000, 75_000_000))
    e = export_mixture(quarter, "nanotron", available={"a": 25_000_000, "b": 10**10}, sequence_length=100)
    assert e.weights["a"] == "0.250000" and "'a' may go beyond 1 epoch: up to 250,000 sequences are drawn and there are 247,524 (planned 1 epochs); plan a little less of it." in e.notes
    twice = export_mixture(quarter, "nanotron", available={"a": 12_500_000, "b": 10**10}, sequence_length=100)
    assert any(n.startswith("'a' may go beyond 2 epochs: up to 250,000 sequences are drawn and there are 247,524 (planned 2 epochs)") for n in twice.notes)

def test_bounds_of_random_draws_are_three_standard_deviations():
    "Of 10,000 documents a quarter is drawn: 2,500, and 129.9 more at three deviations. What is not random has no such bound."
    assert {key for key, f in FRAMEWORKS.items() if f.random} == {"hf-datasets", "lingua", "levanter"}
    quarter, each = Mixture(("a", "b"), (250_000, 750_000)), {"a": 100, "b": 100}
    for framework in ("hf-datasets", "lingua"):
        beyond = lambda documents, framework=framework: [n for n in export_mixture(quarter, framework, tokens_per_document=each, available={"a": 100 * documents, "b": 10**9}).notes if "beyond" in n]
        assert beyond(2629) == ["'a' may go beyond 1 epoch: it is drawn at random, 0.950932 epochs on average and 1.00034 at three standard deviations."] and beyond(2630) == []

def test_blocks_of_levanter_are_exact_and_only_the_last_one_is_random():
    "A quarter of a block is 16,383 sequences; of 10,005 of the next block 2,501.1 on average and 129.9 more at three deviations, and never more than a block has of a domain or than are drawn."
    def beyond(total, drawn, there):  # sequences of 100 tokens
        return [n for n in export_mixture(Mixture(("a", "b"), (100 * drawn, 100 * (total - drawn))), "levanter", available={"a": 100 * there, "b": 10**9}, sequence_length=100).notes if "beyond" in n]
    assert len(beyond(75_540, 18_885, 19_014)) == 1 and not beyond(75_540, 18_885, 19_015)
    assert not beyond(65_536, 16_384, 16_384) and not beyond(65_534, 6, 6)

def test_a_share_that_a_framework_misses_by_more_than_a_thousandth_is_named():
    "Grain cuts 100.9 and 100.05 hundredths of the smallest weight to 100."
    notes = lambda more: export_mixture(Mixture(("a", "b"), (1_000_000 + more, 1_000_000)), "torchtitan").notes
    assert "'a' is drawn as 0.5 of the sequences; its share is 0.5022." in notes(9_000) and not any("is drawn as" in n for n in notes(500))

@pytest.mark.parametrize("length, samples", [(100, 10_000), (None, None)])
def test_streaming_is_told_the_samples_of_the_run_where_their_length_is_known(length, samples):
    "Its tokens would be an epoch that no run ends."
    e = export_mixture(Mixture(("a", "b"), (600_000, 400_000)), "mosaicml-streaming", sequence_length=length)
    assert streaming(e.files) and yaml.safe_load(e.files["streams.yaml"])["train_loader"]["dataset"].get("epoch_size") == samples
    assert any(n.startswith("Set epoch_size to the samples of the whole run") for n in e.notes) == (samples is None)

def test_samples_that_are_not_whole_are_not_drawn():
    assert yaml.safe_load(export_mixture(Mixture(("a", "b"), (150, 100)), "mosaicml-streaming", sequence_length=100).files["streams.yaml"])["train_loader"]["dataset"]["epoch_size"] == 2

def test_a_stream_is_remote_where_its_path_has_a_scheme():
    e = export_mixture(Mixture(("a", "b"), (60, 40)), "mosaicml-streaming", paths={"a": "s3://bucket/a", "b": "/data/b"})
    assert streaming(e.files) and "Stream(remote='s3://bucket/a', " in e.files["streams.py"] and "Stream(local='/data/b', " in e.files["streams.py"]
    streams = yaml.safe_load(e.files["streams.yaml"])["train_loader"]["dataset"]["streams"]
    assert streams["a"] == {"remote": "s3://bucket/a", "proportion": .6} and streams["b"] == {"local": "/data/b", "proportion": .4}

def test_what_is_drawn_at_most_is_what_the_framework_may_draw():
    "Streaming may choose one more than a whole number; Grain draws 167.2 of 1,000 rows (100 of 598 hundredths), so perhaps 168."
    quarter = export_mixture(Mixture(("a", "b"), (250, 750)), "mosaicml-streaming", available={"a": 250, "b": 10**6})
    assert "'a' may go beyond 1 epoch: up to 251 tokens are drawn and there are 250 (planned 1 epochs); plan a little less of it." in quarter.notes
    beyond = lambda there: any("'c' may go beyond" in n for n in export_mixture(Mixture(("a", "b", "c"), (500, 333, 167)), "torchtitan", available={"a": 10**6, "b": 10**6, "c": there}).notes)
    assert beyond(167) and not beyond(168)

def test_caps_that_leave_exactly_one_mixture_are_kept():
    quarter = [Fraction(1, 4), Fraction(3, 4)]
    assert decimal_weights([Fraction(2_500_006, 10**7), Fraction(7_499_994, 10**7)], caps=quarter) == ["0.250000", "0.750000"]

def test_a_domain_without_weight_needs_no_tokens():
    e = export_mixture(Mixture(("a", "b", "none"), (60, 40, 0)), "json", available={"a": 100, "b": 100})
    assert e.epochs == {"a": .6, "b": .4} and "none" not in e.epochs

def test_without_a_sequence_length_epochs_are_counted_in_tokens():
    mixture, there = Mixture(("web", "books"), (66_000_000_000, 34_000_000_000)), {"web": 10**12, "books": 10 * 10**9}
    for framework in ("nanotron", "megatron-lm", "gpt-neox", "nemo"):
        e = export_mixture(mixture, framework, available=there)
        assert not any("beyond" in n for n in e.notes) and any(n.startswith("Epochs are counted in tokens") for n in e.notes) and e.epochs["books"] == pytest.approx(3.4)
    e = export_mixture(mixture, "mosaicml-streaming", available={**there, "books": 8_500_000_000})  # exactly four epochs; it may draw one unit more, and less than a thousandth is cut off
    assert not any("beyond" in n for n in e.notes) and e.epochs["books"] < 4

def test_a_domain_too_small_for_a_block_of_levanter_keeps_one_sequence_and_is_named():
    e = export_mixture(Mixture(("web", "rare"), (10**9, 100)), "levanter")
    assert block_counts([Fraction(w) for w in e.weights.values()]) == [65_534, 1]
    assert any(n.startswith("'rare' is drawn as 1.526e-05 of the sequences; its share is 1e-07") for n in e.notes)

def test_the_smallest_weight_has_six_digits_of_its_own():
    assert decimal_weights([Fraction(123_456_789, 10**11), 1 - Fraction(123_456_789, 10**11)]) == ["0.00123457", "0.99876543"]

def test_fifteen_digits_leave_the_smallest_domain_one_unit():
    assert decimal_weights([Fraction(1, 10**18), 1 - Fraction(1, 10**18)]) == ["0.000000000000001", "0.999999999999999"]

def test_a_smaller_run_of_levanter_sees_as_many_epochs():
    data = yaml.safe_load(export_mixture(Mixture(("a", "b"), (600, 400)), "levanter", experiment_budget=100).files["levanter_data.yaml"])["data"]
    assert (data["experiment_budget"], data["target_budget"]) == (100, 1000)

# ---- the real thing: Megatron-LM ----

@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    "Three .bin/.idx datasets of documents of different lengths; every token is its domain's number."
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    folder, rng, available = tmp_path_factory.mktemp("indexed"), random.Random(0), {}
    for i, (d, documents) in enumerate({"abstracts": 600, "papers": 220, "books": 40}.items()):
        builder = IndexedDatasetBuilder(str(folder/f"{d}.bin"), dtype=np.int32)
        lengths = [rng.randint(LENGTHS[d] // 2, LENGTHS[d] * 3 // 2) for _ in range(documents)]
        for n in lengths: builder.add_document(torch.full((n,), i), [n])
        builder.finalize(str(folder/f"{d}.idx"))
        available[d] = sum(lengths)
    return folder, available

def megatron_blend(e, folder, sequences, length):
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.utils import get_blend_from_list
    from megatron.core.tokenizers.text.libraries import NullTokenizer
    pairs = json.loads(e.files["per_split_data_args.json"])["train"]
    config = GPTDatasetConfig(random_seed=0, sequence_length=length, blend_per_split=[get_blend_from_list(pairs), None, None], tokenizer=NullTokenizer(10), reset_position_ids=False,
                              reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False, path_to_cache=None)
    return BlendedMegatronDatasetBuilder(GPTDataset, [sequences, 0, 0], lambda: True, config).build()[0]

def test_megatron_draws_the_tokens_and_stays_within_the_epoch(indexed):
    folder, available = indexed
    length, total = 64, 80_000
    tokens = {"abstracts": available["abstracts"], "books": available["books"] // 3}  # abstracts are planned exactly once
    mixture = Mixture(("abstracts", "papers", "books"), (tokens["abstracts"], total - sum(tokens.values()), tokens["books"]))
    e = export_mixture(mixture, "megatron-lm", paths={d: folder/d for d in mixture.domains}, available=available, sequence_length=length)
    sequences = total // length
    drawn = megatron_blend(e, folder, sequences, length)
    seen = np.concatenate([np.asarray(drawn[i]["tokens"]) for i in range(sequences)])
    for i, d in enumerate(mixture.domains):
        count = (seen == i).sum()
        assert count / length == math.ceil(count / length) <= math.ceil(Fraction(e.weights[d]) * sequences)
        assert count / len(seen) == pytest.approx(mixture[d] / total, abs=2 * length / total)
        assert count / available[d] == pytest.approx(e.epochs[d], abs=2 * length / available[d])
    of_abstracts = drawn.dataset_sample_index[:sequences][drawn.dataset_index[:sequences] == 0]
    assert of_abstracts.max() < (available["abstracts"] - 1) // length  # no sequence that begins the second epoch
    assert not any("abstracts" in n for n in e.notes)

@given(st.lists(st.integers(1, 1000), min_size=2, max_size=30), st.integers(1, 3000))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_blending_never_draws_more_than_the_ceiling(tokens, sequences):
    "The bound that Megatron-LM, NeMo, nanotron and GPT-NeoX exports count with, against Megatron's own C++; the other three compile the same loop."
    from megatron.core.datasets import helpers
    weights = [Fraction(w) for w in decimal_weights([Fraction(n, sum(tokens)) for n in tokens])]
    index, sample = np.zeros(sequences, np.int16), np.zeros(sequences, np.int64)
    helpers.build_blending_indices(index, sample, [float(w) for w in weights], len(weights), sequences, False)
    counts = np.bincount(index, minlength=len(weights))
    assert all(c <= math.ceil(w * sequences) for c, w in zip(counts, weights))

# ---- the real thing: Hugging Face datasets ----

def test_interleave_datasets_draws_the_tokens(tmp_path):
    rng, per_document = random.Random(1), {}
    for d, n in LENGTHS.items():
        (tmp_path/d).mkdir()
        rows = [{"domain": d, "tokens": rng.randint(n // 2, n * 3 // 2)} for _ in range(200)]
        (tmp_path/d/"part.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        per_document[d] = sum(r["tokens"] for r in rows) / len(rows)
    mixture = Mixture(tuple(LENGTHS), (2 * 10**6, 3 * 10**6, 5 * 10**6))
    e = export_mixture(mixture, "hf-datasets", paths={d: tmp_path/d for d in LENGTHS}, tokens_per_document=per_document)
    namespace = {}
    exec(e.files["interleave.py"], namespace)
    counts, tokens, n = collections.Counter(), collections.Counter(), 10_000
    for row in namespace["mixture"](seed=3).take(n): counts[row["domain"]] += 1; tokens[row["domain"]] += row["tokens"]
    for d, p in e.weights.items(): assert abs(counts[d] - n * float(p)) < 4 * math.sqrt(n * float(p) * (1 - float(p)))  # binomial
    rare = 4 / math.sqrt(n * min(map(float, e.weights.values())))  # four standard deviations of the rarest domain's count: 12%
    assert [tokens[d] / tokens.total() for d in LENGTHS] == pytest.approx(mixture.weights, rel=rare)
    assert counts["abstracts"] / n > .6  # three times its share of the tokens

# ---- the real thing: Grain, under torchtitan's DatasetMixConfig ----

def test_grain_draws_what_the_export_says(tmp_path):
    import grain.python as grain
    mixture = Mixture(("a", "b", "c", "d"), (4_000_123, 1_995_000, 1_009_000, 1_000_000))  # in hundredths of the smallest 400.01, 199.5, 100.9 and 100
    e = export_mixture(mixture, "torchtitan", available={d: 10**7 for d in mixture.domains}, sequence_length=100)
    weights = [w for *_, w in torchtitan(e.files)]
    drawn = grain.MapDataset.mix([grain.MapDataset.source(range(10**6)).map(lambda _, i=i: i) for i in range(4)], weights=weights)
    n = 20_000
    counts = np.bincount([drawn[k] for k in range(n)], minlength=4)
    said = np.array([e.epochs[d] * 10**7 / 100 / (mixture.total // 100) for d in mixture.domains])
    assert np.abs(counts - n * said).max() <= 4  # one sequence each
    assert said == pytest.approx(mixture.weights, rel=.01)

# ---- Lingua's own loop, for it is in no registry ----

def test_lingua_draws_the_tokens():
    "lingua/data.py, choose_source: a line of JSON from `rng.choice(n_sources, p=weights / sum)`, tokenized and packed afterwards."
    mixture = Mixture(tuple(LENGTHS), (2 * 10**6, 3 * 10**6, 5 * 10**6))
    w = np.array([w for *_, w in lingua(export_mixture(mixture, "lingua", tokens_per_document=LENGTHS).files)])
    n = 200_000
    tokens = np.bincount(np.random.default_rng(0).choice(3, n, p=w / w.sum()), minlength=3) * list(LENGTHS.values())
    assert tokens / tokens.sum() == pytest.approx(mixture.weights, rel=4 / math.sqrt(n * w.min()))

# ---- refusals, files, notes ----

@pytest.mark.parametrize("framework, arguments, says", [
    ("megatron_lm", {}, "did you mean megatron-lm"), ("excel", {}, "known are megatron-lm"),
    ("hf-datasets", {}, 'give tokens_per_document (--tokens-per-document FILE.json), like {"a": 900, ...}'), ("lingua", {"tokens_per_document": {"a": 5}}, "no tokens per document given for b; known are a"),
    ("lingua", {"tokens_per_document": {"a": 5, "b": 0}}, "domain 'b': 0 tokens per document"), ("lingua", {"tokens_per_document": {"a": 5, "b": "7"}}, "domain 'b': '7'"),
    ("nemo", {"available": {"a": 5}}, "no available tokens given for b"), ("nemo", {"available": {"a": 5, "b": math.nan}}, "domain 'b': nan"),
    ("nemo", {"paths": {"c": "/x"}}, "a path is given for c"), ("nemo", {"paths": {"a": ["/x", "/y"]}}, "2 paths"), ("nemo", {"paths": {"a": "/x", "b": "/x"}}, "same path '/x'"), ("nemo", {"paths": {"a": ""}}, "is no path"),
    ("megatron-lm", {"paths": {"a": "/x "}}, "white space"), ("megatron-lm", {"paths": {"a": " /x"}}, "white space"), ("nemo", {"sequence_length": 0}, "sequences of 0 tokens"), ("nemo", {"sequence_length": 101}, "do not fit into 100"),
    ("nemo", {"experiment_budget": 10}, "only levanter"), ("levanter", {"experiment_budget": 101}, "give 1 to 100")])
def test_refusals_say_the_way_out(framework, arguments, says):
    with pytest.raises(InputError) as e: export_mixture(Mixture(("a", "b"), (60, 40)), framework, **arguments)
    assert says in str(e.value) and "\n" not in str(e.value)

def test_a_beginning_will_do_where_it_is_one_frameworks():
    mixture = Mixture(("a", "b"), (60, 40))
    assert export_mixture(mixture, "mega").framework == "megatron-lm" and export_mixture(mixture, "nano").framework == "nanotron"
    with pytest.raises(InputError, match="framework 'n' is not known"): export_mixture(mixture, "n")

def test_a_sequence_or_a_smaller_run_may_be_the_whole_run():
    e = export_mixture(Mixture(("a", "b"), (60, 40)), "levanter", sequence_length=100, experiment_budget=100)
    assert yaml.safe_load(e.files["levanter_data.yaml"])["data"]["experiment_budget"] == 100

def test_neox_refuses_what_its_8_bit_index_cannot_hold():
    domains = [f"d{i}" for i in range(255)]
    with pytest.raises(InputError, match="at most 254"): export_mixture(Mixture.uniform(domains, 10**6), "gpt-neox")
    assert len(neox(export_mixture(Mixture.uniform(domains[1:], 10**6), "gpt-neox").files)) == 254

def test_a_name_that_no_file_can_hold_is_refused():
    with pytest.raises(InputError, match="rename it"): export_mixture(Mixture(("\ud800",), (1,)), "nemo")

def test_files_are_written_as_shown_and_a_bad_folder_is_named(tmp_path):
    mixture = Mixture(("a", "b", "none"), (60, 40, 0))
    e = export_mixture(mixture, "json")
    written, = e.write(tmp_path/"new")
    assert load_mixture(written) == mixture and e.files["mixture.json"] in e.show() and "# A weight is per token" in e.show()
    assert any("'none'" in n for n in e.notes) and "none" not in e.weights
    (tmp_path/"file").write_text("")
    with pytest.raises(InputError, match="file"): e.write(tmp_path/"file")
    for framework in FRAMEWORKS:
        e = export_mixture(mixture, framework, tokens_per_document={"a": 1, "b": 2})
        assert all(n in e.show() for n in e.notes)
    assert "PATH/... stands for the data of 'd0', 'd1', 'd2' and 2 more: put your own." in export_mixture(Mixture.uniform([f"d{i}" for i in range(5)], 10**6), "nemo").notes

def test_a_path_with_white_space_has_no_file_that_is_split_there():
    mixture, note = Mixture(("a", "b"), (60, 40)), "No file for --data-args-path: it is split at white space, which a path has."
    spaced, plain = (export_mixture(mixture, "megatron-lm", paths={"a": path, "b": "/b"}) for path in ("/my data/a", "/a"))
    assert "data_args.txt" not in spaced.files and note in spaced.notes and "data_args.txt" in plain.files and note not in plain.notes

def test_a_method_of_two_lines_stays_out_of_the_comment():
    made = {method: export_mixture(Mixture(("a", "b"), (60, 40), method), "nanotron").files["nanotron_data.yaml"] for method in ("joint", "a\nb: 1")}
    assert made["joint"].startswith("# Mixture of 100 tokens (joint) for nanotron.\n") and made["a\nb: 1"].startswith("# Mixture of 100 tokens for nanotron.\n") and set(yaml.safe_load(made["a\nb: 1"])) == {"data_stages"}

def test_several_paths_where_the_framework_has_lists():
    assert {key for key, f in FRAMEWORKS.items() if f.several_paths} == {"hf-datasets", "olmo-core", "torchtitan", "levanter"}
    mixture, paths = Mixture(("a", "b"), (60, 40)), {"a": ["/x", "/y"], "b": "/z"}
    for framework in (k for k, f in FRAMEWORKS.items() if f.several_paths):
        text = "".join(export_mixture(mixture, framework, paths=paths, tokens_per_document={"a": 1, "b": 2}).files.values())
        assert all(p in text for p in ("/x", "/y", "/z"))
        assert not PARSERS[framework](export_mixture(mixture, framework, paths={"a": "/x"}, tokens_per_document={"a": 1, "b": 2}).files)[1][1] == "/z"
    assert export_mixture(mixture, "olmo-core", available={"a": 25, "b": 100}).files["source_mixture.yaml"].count("max_repetition_ratio: 3.0") == 1
