"""The paper's models at the paper's size: one step of GPT-2 Large and one of BERT-base through the training loop.

Marked `slow`, so that neither `make test` nor a bare `pytest` runs them: GPT-2 Large takes 20 to 24 GB of memory and, on two cores that are otherwise idle, some minutes. To run them, and see their figures:

    .venv/bin/python -m pytest -m slow -s tests/test_paper_size.py
"""
import math
import resource
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoscale.baselines import METHODS
from autoscale.corpus import build_store, stdlib_sources, train_tokenizer
from autoscale.mixture import Mixture
from autoscale.model import build_model, held_out, sequence_nats
from autoscale.registry import domain_sources
from autoscale.reproduce import load_profile
from autoscale.runs import RunSpec
from autoscale.sweep import ddo_design, make_spec
from autoscale.trainer import learning_rate, train_together

VOCABULARY = {"paper": 50_257, "paper-encoder": 30_522}  # GPT-2's and BERT's
PARAMETERS = {"paper": 774_030_080, "paper-encoder": 109_514_298}  # GPT-2 Large with a context of 1024; BERT-base with its head for masked language modelling


@pytest.fixture
def make_store(tmp_path):
    "The tokenizers of GPT-2 and BERT lie on the hub; one as large is trained on all that every Python carries, so that every row of the embedding is a token of the text."
    def make(vocabulary: int, algorithm: str):
        sources = stdlib_sources(tmp_path / "text", domain_bytes=12_000_000)
        train_tokenizer((d.text for of in sources.values() for s in of for d in s.documents()), vocabulary, algorithm).save_pretrained(tmp_path / "tokenizer")
        store = build_store(tmp_path / "store", sources, tokenizer=tmp_path / "tokenizer", progress=False)
        assert store.vocab_size == vocabulary and store.manifest["dtype"] == "<u2"
        return store
    return make


def first_step(profile: dict, store, batch: int) -> RunSpec:
    """The first optimiser step of the profile's base run at its smaller scale, on `batch` sequences instead of the profile's batch and judged on 2 held-out sequences a domain instead of 10,000.

    Its learning rate is that of the whole run's warm-up: GPT-2 Large's first step at the peak takes the held-out loss from 11.1 up to 13.2, for AdamW's first step moves every weight by the whole rate."""
    def spec(total, optimiser, batch): return make_spec(Mixture.uniform(store.domains, total, multiple=profile["context"]), store.hash, {**profile, "optimiser": optimiser, "batch": batch, "evaluation_sequences": 2}, profile["seeds"][0])
    whole = spec(profile["scales"][0] // batch // profile["context"] * batch * profile["context"], profile["optimiser"], profile["batch"])  # the stand-in corpus has domains of its own, and their number must divide the amount
    return spec(batch * profile["context"], {**profile["optimiser"], "learning_rate": learning_rate(0, whole.steps, whole.optimiser)}, batch)


def counted(spec: RunSpec, store, layers: str) -> int:
    "FLOPs of one sequence forward and backward: counted for models of one and of two layers, and every further layer adds the difference. `layers`: the configuration's name for their number."
    row = torch.from_numpy(held_out(store, store.domains[0], spec.context, 1, spec.masked))
    def model(**settings): return build_model(replace(spec, model={**spec.model, **settings}), store)
    def of(n: int) -> int:
        with FlopCounterMode(display=False) as counter: sequence_nats(model(**{layers: n}), row).sum().backward()
        return counter.get_total_flops()
    one, two = of(1), of(2)
    return one + (getattr(build_model(spec, store, "meta").config, layers) - 1) * (two - one)


def test_profiles_for_larger_machines_fit_their_models_and_their_sequences():
    "paper and gpu were not run: that they load, that their models are as large as they say and that amounts are whole sequences is checked here, without allocating anything."
    for name, params, vocabulary, m in (("paper", PARAMETERS["paper"], VOCABULARY["paper"], 7), ("paper-encoder", PARAMETERS["paper-encoder"], VOCABULARY["paper-encoder"], 5), ("gpu", 23_174_400, 8192, 7)):
        profile = load_profile(name); domains = tuple(profile.get("trained") or domain_sources(profile["domains"]))
        assert len(domains) == m and profile.get("vocab_size", vocabulary) == vocabulary
        for total in profile["scales"]:
            base = Mixture.uniform(domains, total, profile["context"])
            spec = make_spec(base, "0" * 64, profile, profile["seeds"][0])
            assert len(set(base.tokens)) == 1 and base.tokens[0] % (3 * profile["context"]) == 0
            assert sum(p.numel() for p in build_model(spec, SimpleNamespace(vocab_size=vocabulary, eot=0), "meta").parameters()) == params
            assert len(ddo_design(base, profile["factor"], profile["context"])) == 2 * m + 1
        for comparison in profile["comparisons"]: assert comparison["target"] % profile["context"] == 0 and set(comparison["methods"]) <= set(METHODS)
        assert profile["target"] == max(c["target"] for c in profile["comparisons"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "paper-encoder"])
def test_a_model_of_the_paper_takes_a_step_and_is_judged(name, make_store):
    profile, expected = load_profile(name), math.log(VOCABULARY[name])
    store = make_store(VOCABULARY[name], "wordpiece" if "masked" in profile else "bpe"); batch = len(store.domains)  # one sequence of each domain
    spec = first_step(profile, store, batch)
    assert spec.steps == 1 and spec.precision == "bf16" and spec.context == profile["context"] and spec.masked == profile.get("masked")

    started = time.monotonic()
    record = train_together([(f"{name}, first step", spec)], store, micro_batch=1)[0]
    seconds, told, after = time.monotonic() - started, record.curve[-1]["loss"], np.array(list(record.losses.values()))
    flops, rule = counted(spec, store, "n_layer" if name == "paper" else "num_hidden_layers"), 6 * record.params * spec.context
    print(f"\n{name}: {record.params:,} parameters; {flops:.4e} FLOPs for a sequence of {spec.context} forward and backward, {flops / rule:.4f} of 6 x parameters x tokens"
          f"\ntraining loss of the fresh model {told:.4f} nats per predicted token, ln {VOCABULARY[name]:,} = {expected:.4f}; held-out after one step of {batch} sequences at a learning rate of {spec.optimiser['learning_rate']:.3g}: {after.round(4).tolist()}"
          f"\n{seconds:.0f} s in train_together: { {k: round(v, 1) for k, v in record.parts.items()} }; peak memory of this process so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    if name == "paper":
        layers, width = spec.model["n_layer"], spec.model["n_embd"]
        assert flops == 6 * spec.context * (12 * layers * width ** 2 + store.vocab_size * width) + 12 * layers * spec.context ** 2 * width  # every product of a matrix, and the attention scores, which the rule leaves out
    else:
        layers, width = 12, 768  # one more product of a matrix than GPT-2: the head's own
        assert flops == 6 * spec.context * (12 * layers * width ** 2 + width ** 2 + store.vocab_size * width) + 12 * layers * spec.context ** 2 * width
    assert record.status == "finished" and record.params == PARAMETERS[name] and record.spec.hash == spec.hash
    assert abs(told - expected) < .5  # a fresh model holds every token for equally likely, nearly
    assert (np.abs(after - expected) < .5).all()  # and one step of the warm-up does not throw it out
