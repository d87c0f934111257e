"""The paper's model at the paper's size: one step of GPT-2 Large through the training loop.

Marked `slow`, so that neither `make test` nor a bare `pytest` runs it: it takes 20 to 24 GB of memory and, on two cores that are otherwise idle, some minutes. To run it, and see its figures:

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
from autoscale.model import build_model, sequence_nats
from autoscale.registry import domain_sources
from autoscale.reproduce import load_profile
from autoscale.runs import RunSpec
from autoscale.sweep import ddo_design, make_spec
from autoscale.trainer import learning_rate, train_together

VOCABULARY = 50_257  # GPT-2's
PARAMETERS = 774_030_080  # of GPT-2 Large with that vocabulary and a context of 1024


@pytest.fixture
def paper(): return load_profile("paper")


@pytest.fixture
def large_store(tmp_path):
    "GPT-2's own tokenizer lies on the hub; a byte-level BPE as large is trained on all that every Python carries, so that every row of the embedding is a token of the text."
    sources = stdlib_sources(tmp_path / "text", domain_bytes=12_000_000)
    train_tokenizer((d.text for of in sources.values() for s in of for d in s.documents()), VOCABULARY).save_pretrained(tmp_path / "tokenizer")
    store = build_store(tmp_path / "store", sources, tokenizer=tmp_path / "tokenizer", progress=False)
    assert store.vocab_size == VOCABULARY and store.manifest["dtype"] == "<u2"
    return store


def first_step(paper: dict, store, batch: int) -> RunSpec:
    """The first optimiser step of the profile's base run at its smaller scale, on `batch` sequences instead of 80 and judged on 2 held-out sequences a domain instead of 10,000.

    Its learning rate is that of the whole run's warm-up: a first step at the peak takes the held-out loss from 11.1 up to 13.2, for AdamW's first step moves every weight by the whole rate."""
    def spec(total, optimiser, batch): return make_spec(Mixture.uniform(store.domains, total, multiple=paper["context"]), store.hash, {**paper, "optimiser": optimiser, "batch": batch, "evaluation_sequences": 2}, paper["seeds"][0])
    whole = spec(paper["scales"][0], paper["optimiser"], paper["batch"])
    assert whole.steps == 3663
    return spec(batch * paper["context"], {**paper["optimiser"], "learning_rate": learning_rate(0, whole.steps, whole.optimiser)}, batch)


def counted(spec: RunSpec, store) -> int:
    "FLOPs of one sequence forward and backward: counted for models of one and of two layers, and every further layer adds the difference."
    row = torch.from_numpy(store.tokens(store.domains[0])[:spec.context].astype(np.int64))[None]
    def of(layers: int) -> int:
        with FlopCounterMode(display=False) as counter: sequence_nats(build_model(replace(spec, model={**spec.model, "n_layer": layers}), store), row).sum().backward()
        return counter.get_total_flops()
    one, two = of(1), of(2)
    return one + (spec.model["n_layer"] - 1) * (two - one)


def test_profiles_for_larger_machines_fit_their_models_and_their_sequences():
    "paper and gpu were not run: that they load, that their models are as large as they say and that amounts are whole sequences is checked here, without allocating anything."
    for name, params, vocabulary, m in (("paper", PARAMETERS, VOCABULARY, 7), ("gpu", 23_174_400, 8192, 7)):
        profile = load_profile(name); domains = tuple(domain_sources(profile["domains"]))
        assert len(domains) == m and profile.get("vocab_size", VOCABULARY) == vocabulary
        for total in profile["scales"]:
            base = Mixture.uniform(domains, total, profile["context"])
            spec = make_spec(base, "0" * 64, profile, profile["seeds"][0])
            assert len(set(base.tokens)) == 1 and base.tokens[0] % (3 * profile["context"]) == 0
            assert sum(p.numel() for p in build_model(spec, SimpleNamespace(vocab_size=vocabulary, eot=0), "meta").parameters()) == params
            assert len(ddo_design(base, profile["factor"], profile["context"])) == 15
        for comparison in profile["comparisons"]: assert comparison["target"] % profile["context"] == 0 and set(comparison["methods"]) <= set(METHODS)
        assert profile["target"] == max(c["target"] for c in profile["comparisons"])


@pytest.mark.slow
def test_the_paper_s_model_takes_a_step_and_is_judged(paper, large_store):
    batch, expected = len(large_store.domains), math.log(VOCABULARY)  # one sequence of each domain
    spec = first_step(paper, large_store, batch)
    assert spec.steps == 1 and spec.precision == "bf16" and spec.context == 1024

    started = time.monotonic()
    record = train_together([("GPT-2 Large, first step", spec)], large_store, micro_batch=paper["micro_batch"])[0]
    seconds, told, after = time.monotonic() - started, record.curve[-1]["loss"], np.array(list(record.losses.values()))
    flops, rule = counted(spec, large_store), 6 * record.params * spec.context
    print(f"\n{record.params:,} parameters; {flops:.4e} FLOPs for a sequence of {spec.context} forward and backward, {flops / rule:.4f} of 6 x parameters x tokens"
          f"\ntraining loss of the fresh model {told:.4f} nats per token, ln {VOCABULARY:,} = {expected:.4f}; held-out after one step of {batch} sequences at a learning rate of {spec.optimiser['learning_rate']:.3g}: {after.round(4).tolist()}"
          f"\n{seconds:.0f} s in train_together: { {k: round(v, 1) for k, v in record.parts.items()} }; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
    layers, width = spec.model["n_layer"], spec.model["n_embd"]
    assert flops == 6 * spec.context * (12 * layers * width ** 2 + VOCABULARY * width) + 12 * layers * spec.context ** 2 * width  # every product of a matrix, and the attention scores, which the rule leaves out
    assert record.status == "finished" and record.params == PARAMETERS and record.spec.hash == spec.hash
    assert abs(told - expected) < .5  # a fresh model holds every token for equally likely, nearly
    assert (np.abs(after - expected) < .5).all()  # and one step of the warm-up does not throw it out
