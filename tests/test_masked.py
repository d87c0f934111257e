"""Masked language modelling: the same loop, other questions. BERT's masking rule, questions that chance does not move, and what a run is judged on."""
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.corpus import build_store, stdlib_sources
from autoscale.mixture import InputError, Mixture
from autoscale.model import NOT_ASKED, build_model, held_out, hide_tokens, predictions, training_keys
from autoscale.runs import RunSpec, RunStore, run_table
from autoscale.sampler import Sampler, schedule
from autoscale.sweep import sweep
from autoscale.trainer import learning_rate, load_model, optimiser_settings, train

MODERN = {"model_type": "modernbert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3}
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return build_store(tmp_path_factory.mktemp("pieces") / "store", stdlib_sources(), vocab_size=512, algorithm="wordpiece", progress=False)


@pytest.fixture(scope="module")
def masked(pieces):
    "36,864 tokens of two of the store's three domains; the third is only judged."
    return RunSpec(Mixture.uniform(pieces.domains[:2], 36_864, multiple=64), pieces.hash, BERT, optimiser_settings(learning_rate=4e-3), context=64, batch=16, precision="fp32", evaluation={"sequences": 24, "every": 12}, masked=0.15)


@given(st.integers(0, 2**64 - 1), st.sampled_from([0.05, 0.15, 0.4]), st.integers(8, 80))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_the_masking_rule(pieces, key, share, context):
    "Exactly the share of a row is asked; what is not asked is read as it is; answers are the row's tokens; [CLS] leads, and no special token is asked."
    rows = np.asarray(pieces.tokens("python_code", "train"))[: 6 * context].reshape(6, context).astype(np.int64)
    hidden = hide_tokens(rows, range(key, key + 6), share, pieces) if key < 2**64 - 6 else hide_tokens(rows, [key] * 6, share, pieces)
    read, answer = hidden[:, 0], hidden[:, 1]
    asked = answer != NOT_ASKED
    assert hidden.shape == (6, 2, context) and set(asked.sum(1)) == {predictions(context, share)}
    assert (read[:, 0] == pieces.cls).all() and (read[:, 1:][~asked[:, 1:]] == rows[:, 1:][~asked[:, 1:]]).all() and (answer[asked] == rows[asked]).all()
    assert not np.isin(rows[asked], [pieces.cls, pieces.eot, pieces.mask]).any() and not asked[:, 0].any()


def test_eighty_ten_ten(pieces):
    rows = np.asarray(pieces.tokens("python_code", "train"))[: 2000 * 64].reshape(2000, 64).astype(np.int64)
    read, answer = hide_tokens(rows, range(2000), 0.15, pieces).transpose(1, 0, 2)
    asked = answer != NOT_ASKED
    became, kept = (read[asked] == pieces.mask).mean(), (read[asked] == answer[asked]).mean()
    n = asked.sum()
    assert abs(became - 0.8) < 4 * math.sqrt(0.8 * 0.2 / n) + 1 / pieces.vocab_size and abs(kept - 0.1) < 4 * math.sqrt(0.09 / n) + 1 / pieces.vocab_size
    places = asked[:, 1:].sum(0) / 2000  # anywhere but at the start, evenly: the share of a place has a standard deviation of 0.008
    assert 0.10 < places.min() and places.max() < 0.21


def test_what_is_hidden_depends_on_the_sequence_and_its_pass_alone(pieces):
    "A run with more of one domain asks of the sequences that it shares what the smaller run asks; a second pass asks anew; another seed asks otherwise."
    small = Mixture.uniform(pieces.domains[:2], 40 * 64, multiple=64)
    large = replace(small, tokens=(small.tokens[0] * 3, small.tokens[1]))
    def asked(mixture, seed, available=None):
        plan = schedule(mixture, available or pieces.available(), 64, seed)
        return {(plan.domain[i], plan.sequence[i], plan.passes[i]): key for i, key in enumerate(training_keys(plan, np.arange(len(plan)), seed))}
    a, b, other = asked(small, 0), asked(large, 0), asked(small, 1)
    assert a.items() <= b.items() and len(b) == len(a) + 40 and not set(a.values()) & set(other.values())
    twice = asked(small, 0, {d: 10 * 64 for d in pieces.domains})
    assert {p for *_, p in twice} == {0, 1} and len(set(twice.values())) == 40
    assert (held_out(pieces, pieces.domains[2], 64, 8, 0.15) == held_out(pieces, pieces.domains[2], 64, 8, 0.15)).all()


def test_training_is_that_of_a_plain_loop(pieces, masked):
    "transformers' own BertForMaskedLM and loss, plain AdamW, the rows and questions of ours: equal held-out losses to 1e-5, on every domain, trained on or not."
    from transformers import AutoConfig, BertForMaskedLM
    model_settings = {k: v for k, v in BERT.items() if k != "model_type"}
    config = AutoConfig.for_model("bert", vocab_size=pieces.vocab_size, max_position_embeddings=64, **model_settings)
    torch.manual_seed(masked.seed)
    model, o = BertForMaskedLM(config), masked.optimiser
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW([{"params": [p for p in parameters if p.dim() > 1], "weight_decay": o["weight_decay"]}, {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}], betas=o["betas"], eps=o["eps"], foreach=False)
    sampler = Sampler(pieces, masked.mixture, 64, 16, masked.seed)
    for step, (rows, real) in enumerate(sampler):
        at = np.arange(step * 16, step * 16 + 16)[real]
        hidden = torch.from_numpy(hide_tokens(rows[real], training_keys(sampler.schedule, at, masked.seed), 0.15, pieces))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, masked.steps, o)
        optimizer.zero_grad()
        model(input_ids=hidden[:, 0], labels=hidden[:, 1].contiguous()).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, o["clip"])
        optimizer.step()
    model.eval()
    record = train(masked, pieces)
    for d in pieces.domains:
        hidden = torch.from_numpy(held_out(pieces, d, 64, 24, 0.15))
        with torch.no_grad():
            assert abs(float(model(input_ids=hidden[:, 0], labels=hidden[:, 1].contiguous()).loss) - record.losses[d]) < 1e-5
    assert record.bits_per_byte == {} and tuple(record.losses) == pieces.domains
    first, last = (np.mean([e["losses"][d] for d in masked.mixture.domains]) for e in (record.evaluations[0], record.evaluations[-1]))
    assert last < first < math.log(pieces.vocab_size)
    assert math.isclose(record.mean_loss, np.mean([record.losses[d] for d in pieces.domains[:2]]))
    table = run_table([record])
    assert table.domains == table.validation == pieces.domains[:2]


def test_stacked_and_in_pieces_it_is_the_same_run(pieces, masked, tmp_path):
    "Two seeds as one model, and micro-batches that do not divide the batch: the losses of a run alone, up to rounding."
    jobs = [(f"seed {s}", replace(masked, seed=s)) for s in range(2)]
    together = sweep(jobs, pieces, RunStore(tmp_path), stack=2)
    for (_, spec), record in zip(jobs, together):
        alone = train(spec, pieces, micro_batch=5)
        assert record.machine["stacked"] == 2 and all(abs(alone.losses[d] - record.losses[d]) < 2e-5 for d in pieces.domains)


CHILD = """
import json, os, sys
from pathlib import Path
import torch; torch.set_num_threads(1)
from autoscale.corpus import open_store
from autoscale.runs import RunSpec
from autoscale.trainer import train
store, spec, checkpoint, result = open_store(sys.argv[1]), RunSpec.from_dict(json.loads(Path(sys.argv[2]).read_text())), Path(sys.argv[3]), Path(sys.argv[4])
record = train(spec, store, checkpoint=checkpoint, checkpoint_seconds=0, report=lambda at: print(at["step"], flush=True))
if os.environ.get("RANK", "0") == "0": result.write_text(json.dumps([record.losses, record.evaluations]))
"""


def test_killed_and_continued_to_the_same_bits_and_two_ranks_to_the_same_loss(pieces, masked, tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(masked.to_dict()))
    (tmp_path / "child.py").write_text(CHILD)
    command = lambda name: [tmp_path / "child.py", pieces.path, tmp_path / "spec.json", tmp_path / f"{name}.safetensors", tmp_path / f"{name}.json"]
    whole = subprocess.run([sys.executable, *command("whole")], capture_output=True, text=True, timeout=600)
    assert whole.returncode == 0, whole.stderr[-2000:]
    child = subprocess.Popen([sys.executable, *command("cut")], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if int(line) >= 20:
            os.kill(child.pid, signal.SIGKILL)
            break
    child.wait(600)
    assert (tmp_path / "cut.safetensors").exists() and not (tmp_path / "cut.json").exists()
    assert subprocess.run([sys.executable, *command("cut")], capture_output=True, timeout=600).returncode == 0
    assert (tmp_path / "cut.json").read_text() == (tmp_path / "whole.json").read_text()
    ranks = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *command("ranks")], capture_output=True, text=True, timeout=600, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    assert ranks.returncode == 0, ranks.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("whole", "ranks"))
    assert all(math.isclose(one[d], two[d], abs_tol=2e-5) for d in pieces.domains)


def test_kept_weights_are_a_bert(pieces, masked, tmp_path):
    short = replace(masked, mixture=Mixture.uniform(pieces.domains[:2], 64 * 64, multiple=64), evaluation={"sequences": 24, "every": 0})
    record = train(short, pieces, keep=tmp_path)
    model = load_model(short, pieces, tmp_path / f"{short.hash}.safetensors").eval()
    assert type(model).__name__ == "BertForMaskedLM"
    hidden = torch.from_numpy(held_out(pieces, pieces.domains[0], 64, 24, 0.15))
    with torch.no_grad():
        assert abs(float(model(input_ids=hidden[:, 0], labels=hidden[:, 1].contiguous()).loss) - record.losses[pieces.domains[0]]) < 1e-5


@pytest.mark.parametrize(("settings", "last"), [(BERT, "output.dense.weight"), (MODERN, "Wo.weight")])
def test_blocks_can_start_as_the_identity(pieces, masked, settings, last):
    "A model without blocks says the same."
    model = build_model(replace(masked, model={**settings, "residual_init": 0}), pieces).eval()
    into = [p for n, p in model.named_parameters() if n.endswith(last)]
    assert len(into) == 2 and all(float(p.abs().max()) == 0 for p in into)
    if settings is MODERN:  # BERT normalises what leaves a block, so there only the blocks' own part is nothing
        rows, layers = torch.from_numpy(held_out(pieces, pieces.domains[0], 64, 2, 0.15))[:, 0], model.model.layers
        with torch.no_grad():
            whole = model(input_ids=rows).logits
            del layers[:]
            assert torch.equal(model(input_ids=rows).logits, whole)


def test_refusals(store, pieces, masked, tmp_path):
    with pytest.raises(InputError, match=r"no \[CLS\] token.*algorithm wordpiece"):
        train(replace(masked, store=store.hash), store)
    with pytest.raises(InputError, match="needs a causal model"):
        train(replace(masked, reweight={"rule": "doremi"}), pieces, reweight=lambda *a: None)
    with pytest.raises(InputError, match="gpt2"):
        sweep([("decoder", replace(masked, model={"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2}))], pieces, RunStore(tmp_path))
    assert replace(masked, masked=None).hash != masked.hash and "masked" not in replace(masked, masked=None).to_dict()
