"""Training runs: killed for real and continued to the same loss, diverging into a record, refusing what does not fit."""
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunSpec, RunStore
from autoscale.model import Stack, build_model, has_dropout, held_out, sequence_nats
from autoscale.trainer import OPTIMISER, learning_rate, load_model, train, train_together

CHILD = """
import json, sys
from pathlib import Path
from autoscale.corpus import open_store
from autoscale.runs import RunSpec
from autoscale.trainer import train
import torch; torch.set_num_threads(1)
store, spec, checkpoint, result = open_store(sys.argv[1]), RunSpec.from_dict(json.loads(Path(sys.argv[2]).read_text())), Path(sys.argv[3]), Path(sys.argv[4])
record = train(spec, store, checkpoint=checkpoint, checkpoint_seconds=0, report=lambda at: print(at["step"], flush=True))
result.write_text(json.dumps([record.losses, record.loss_se, record.curve, record.evaluations]))
"""


def start(store, spec, folder, name):
    (folder / "spec.json").write_text(json.dumps(spec.to_dict()))
    return subprocess.Popen([sys.executable, "-c", CHILD, store.path, folder / "spec.json", folder / f"{name}.safetensors", folder / f"{name}.json"], stdout=subprocess.PIPE, text=True)


def test_killed_with_sigkill_and_continued_to_the_same_loss(store, spec, tmp_path):
    "Dropout, weight averaging and evaluations along the way are all on: every number must come out the same to the last bit."
    whole = start(store, spec, tmp_path, "whole")
    assert whole.wait(600) == 0
    killed_at = []
    for at in (5, 29):  # once before and once inside the stretch whose weights are averaged (the last quarter of 36 steps)
        child = start(store, spec, tmp_path, "cut")
        for line in child.stdout:
            if int(line) >= at:
                os.kill(child.pid, signal.SIGKILL)
                break
        child.wait(600)
        killed_at.append(at)
        assert (tmp_path / "cut.safetensors").exists() and not (tmp_path / "cut.json").exists()
    (tmp_path / ".cut.safetensors.tmp").mkdir(exist_ok=True); (tmp_path / ".cut.safetensors.tmp/.tmpAbCdEf").write_bytes(b"half")  # what a kill in the middle of a checkpoint leaves
    assert start(store, spec, tmp_path, "cut").wait(600) == 0
    assert (tmp_path / "cut.json").read_text() == (tmp_path / "whole.json").read_text()
    assert not (tmp_path / "cut.safetensors").exists() and not list(tmp_path.glob(".*"))
    losses, errors, _, evaluations = json.loads((tmp_path / "whole.json").read_text())
    assert [e["step"] for e in evaluations] == [12, 24, 36] and evaluations[-1]["losses"] == losses
    assert all(2 < loss < math.log(512) for loss in losses.values()) and all(e > 0 for e in errors.values())


def test_a_diverging_run_is_a_failed_record(store, spec):
    record = train(replace(spec, optimiser={**OPTIMISER, "learning_rate": 100.0, "warmup": 0.0}), store)
    assert record.status == "failed" and record.losses == {} and "lower the learning rate (100)" in record.reason


def test_a_held_out_loss_that_is_not_finite_on_the_way_is_a_failed_record(store, spec, tmp_path):
    "The training loss is looked at only now and then; an evaluation in between must not put a NaN into the record."
    from autoscale.runs import RunStore
    record = train(replace(spec, optimiser={**OPTIMISER, "learning_rate": 1e38, "warmup": 0.0}, evaluation={"sequences": 4, "every": 1}), store)
    assert record.status == "failed" and "1e+38" in record.reason and record.evaluations == []
    RunStore(tmp_path).put(record)


def test_one_step_and_a_launcher_that_says_bf16(store, spec, monkeypatch):
    one = replace(spec, precision="fp32", mixture=Mixture.uniform(store.domains, 9 * 64, multiple=64))
    alone = train(one, store)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # `accelerate launch` sets it; the specification decides
    assert alone.status == "finished" and len(alone.curve) == 1 and train(one, store).losses == alone.losses


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_architecture_learns(store, spec, precision):
    llama = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    record = train(replace(spec, model=llama, precision=precision), store)
    assert record.status == "finished" and record.mean_loss < math.log(512) - .3


def test_micro_batches_change_nothing_but_rounding(store, spec):
    exact = replace(spec, precision="fp32", mixture=Mixture.uniform(store.domains, 93 * 64, multiple=64), model={**spec.model, "resid_pdrop": 0, "embd_pdrop": 0})  # the last of 6 batches holds 13 of 16 rows
    whole, parts = train(exact, store), train(exact, store, micro_batch=3)
    for domain in store.domains:
        assert math.isclose(whole.losses[domain], parts.losses[domain], abs_tol=2e-5)


def test_the_record_says_what_was_run(store, spec):
    record = train(spec, store, name="base")
    assert record.params == sum(p.numel() for p in build_model(spec, store).parameters())
    assert record.epochs == {d: 192 / (store.available()[d] // 64) for d in store.domains}
    assert {"autoscale", "torch", "transformers", "python"} <= set(record.versions) and record.machine["cores"] == os.cpu_count()
    assert record.curve[-1]["tokens"] == spec.mixture.total and record.flops == 6 * record.params * spec.mixture.total
    for domain in store.domains:
        assert record.bits_per_byte[domain] == pytest.approx(record.losses[domain] / math.log(2) / store.bytes_per_token(domain, "valid"))


def test_same_seed_same_start_other_seed_other_start(store, spec):
    one, same, other = (next(build_model(replace(spec, seed=s), store).parameters()).detach() for s in (0, 0, 1))
    assert bool((one == same).all()) and not bool((one == other).all())


def test_schedule_ends():
    rates = [learning_rate(step, 50, OPTIMISER) for step in range(50)]
    assert max(rates) == OPTIMISER["learning_rate"] == rates[4] and rates[-1] == pytest.approx(OPTIMISER["final"] * OPTIMISER["learning_rate"])
    assert all(a > b for a, b in itertools.pairwise(rates[5:]))


def test_held_out_sequences_are_spread_over_the_split(store):
    domain = store.domains[0]
    rows = held_out(store, domain, 64, 10)
    tokens = store.tokens(domain, "valid")
    assert rows.shape == (10, 64) and rows[-1].tolist() != tokens[9 * 64:10 * 64].tolist() and rows[0].tolist() == tokens[:64].tolist()


@pytest.mark.parametrize("change, says", [
    ({"store": "0" * 64}, "specified for token store"), ({"precision": "fp8"}, "fp8"), ({"model": {"model_type": "gpt2", "n_hed": 2}}, "n_hed"),
    ({"model": {"model_type": "gpt9"}}, "gpt9"), ({"optimiser": {"lr": 1}}, "'lr'"), ({"context": 100}, "whole sequences of 100"), ({"optimiser": {"learning_rate": 1e-3}}, "to defaults")])
def test_refusals(store, spec, change, says):
    with pytest.raises(InputError, match=says):
        train(replace(spec, **change), store)


@pytest.fixture(scope="module")
def left_behind(store, spec, tmp_path_factory):
    "The bytes of the checkpoint that a killed run left."
    folder = tmp_path_factory.mktemp("killed")
    child = start(store, spec, folder, "run")
    child.stdout.readline()
    deadline = time.monotonic() + 600
    while not (folder / "run.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(.01)
    child.kill()
    child.wait()
    return (folder / "run.safetensors").read_bytes()


@pytest.mark.parametrize("damage", [lambda b: b[:len(b) // 2], lambda b: b"", lambda b: b[:8] + b"x" * (len(b) - 8)])
def test_a_damaged_checkpoint_is_named(store, spec, tmp_path, left_behind, damage):
    path = tmp_path / "run.safetensors"
    path.write_bytes(damage(left_behind))
    with pytest.raises(InputError, match="not a complete checkpoint"):
        train(spec, store, checkpoint=path)


def test_a_checkpoint_of_another_run_is_named(store, spec, tmp_path, left_behind):
    (tmp_path / "run.safetensors").write_bytes(left_behind)
    with pytest.raises(InputError, match=f"belongs to run {spec.hash}"):
        train(replace(spec, seed=1), store, checkpoint=tmp_path / "run.safetensors")


def test_spec_survives_json(spec):
    assert RunSpec.from_dict(json.loads(json.dumps(spec.to_dict()))).hash == spec.hash


RANK = """
import json, os, sys
from pathlib import Path
from autoscale.corpus import open_store
from autoscale.runs import RunSpec, RunStore
from autoscale.sweep import train_group
import torch; torch.set_num_threads(1)
store, folder, stop = open_store(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
def report(at):
    if stop and at and at["step"] > stop: os._exit(0)
record, = train_group([("x", RunSpec.from_dict(json.loads((folder / "spec.json").read_text())))], store, RunStore(folder / "runs"),
                      {"micro_batch": 4, "checkpoint_seconds": 0 if stop else 1e9, "keep": folder / "weights"}, report)
assert record.machine["ranks"] == int(os.environ.get("WORLD_SIZE", 1))
"""


@pytest.mark.parametrize("launch", [("--multi_gpu",), ("--config_file", Path(__file__).parents[1] / "nbs/paper/fsdp.yml")], ids=["a copy each", "one model, sharded"])
def test_two_ranks_end_where_one_does_and_take_over_from_one_another(store, spec, tmp_path, launch):
    "`accelerate launch` with two real processes (gloo), a model on each or one divided between them: the same batches, and the same losses up to the order of a sum (2e-5 nats), from the start or from a checkpoint that another number of processes left."
    exact = replace(spec, precision="fp32", mixture=Mixture.uniform(store.domains, 93 * 64, multiple=64), model={**spec.model, "n_layer": 2, "resid_pdrop": 0, "embd_pdrop": 0}, evaluation={"sequences": 15, "every": 3})
    def run(folder, stop, ranks):
        folder.mkdir(exist_ok=True)
        (folder / "rank.py").write_text(RANK); (folder / "spec.json").write_text(json.dumps(exact.to_dict()))
        launcher = ["-m", "accelerate.commands.launch", *launch, "--num_processes", str(ranks), "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"] if ranks > 1 else []
        done = subprocess.run([sys.executable, *map(str, launcher), folder / "rank.py", store.path, folder, str(stop)], capture_output=True, text=True, timeout=600, env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr[-3000:]
        return list((folder / "runs/checkpoints").glob("*.safetensors"))
    one = train(exact, store, keep=tmp_path / "weights")
    assert run(tmp_path / "two then one", 2, 2) and not run(tmp_path / "two then one", 0, 1)
    assert run(tmp_path / "one then two", 2, 1) and not run(tmp_path / "one then two", 0, 2)
    weights = load_model(exact, store, tmp_path / "weights" / f"{exact.hash}.safetensors").state_dict()
    for folder in (tmp_path / "two then one", tmp_path / "one then two"):
        record, = RunStore(folder / "runs")
        for domain in store.domains: assert math.isclose(record.losses[domain], one.losses[domain], abs_tol=2e-5) and math.isclose(record.loss_se[domain], one.loss_se[domain], abs_tol=2e-5)
        assert [e["step"] for e in record.evaluations] == [e["step"] for e in one.evaluations]
        kept = load_model(exact, store, folder / "weights" / f"{exact.hash}.safetensors").state_dict()
        assert all((weights[name] - kept[name]).abs().max() < 2e-5 for name in weights)


def test_a_sharded_model_is_trained_alone(store, spec, monkeypatch):
    plain = replace(spec, model={**spec.model, "resid_pdrop": 0, "embd_pdrop": 0})
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="runs 'a', 'b': a sharded model is trained alone"): train_together([("a", plain), ("b", replace(plain, seed=1))], store)


def reference(spec, store):
    "The same training with nothing of ours in it but the order of the sequences: transformers' own model and loss, its fused attention, plain AdamW. Returns held-out losses."
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from autoscale.sampler import Sampler
    settings = dict(spec.model)
    config = AutoConfig.for_model(settings.pop("model_type"), vocab_size=store.vocab_size, bos_token_id=store.eot, eos_token_id=store.eot, **settings)
    config.max_position_embeddings = spec.context
    torch.manual_seed(spec.seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    o, parameters = spec.optimiser, list(model.parameters())
    optimizer = torch.optim.AdamW([{"params": [p for p in parameters if p.dim() > 1], "weight_decay": o["weight_decay"]}, {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}],
                                  betas=o["betas"], eps=o["eps"], foreach=False)
    for step, (rows, real) in enumerate(Sampler(store, spec.mixture, spec.context, spec.batch, spec.seed)):
        rows = torch.from_numpy(rows[real])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, spec.steps, o)
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, o["clip"])
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return {d: float(model(input_ids=(rows := torch.from_numpy(held_out(store, d, spec.context, spec.evaluation["sequences"]))), labels=rows).loss) for d in store.domains}


@pytest.fixture(scope="module")
def plain(spec, store):
    "Without dropout, in float32; the last of 6 batches holds 13 of 16 rows."
    return replace(spec, precision="fp32", mixture=Mixture.uniform(store.domains, 93 * 64, multiple=64), model={**spec.model, "resid_pdrop": 0, "embd_pdrop": 0}, optimiser=dict(OPTIMISER))


def neighbours(spec, store):
    "Three runs of one shape: other mixtures of the same total, other seeds."
    tokens = [tuple((31 + (9 if i == k else -4 if k < 3 else 0)) * 64 for i in range(3)) for k in range(3)]
    return [(f"run {k}", replace(spec, mixture=Mixture(store.domains, (*t[:2], 93 * 64 - sum(t[:2]))), seed=k)) for k, t in enumerate(tokens)]


ROTARY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True}


@pytest.mark.parametrize("model", [None, {"model_type": "llama", **ROTARY}, {"model_type": "qwen3", "head_dim": 16, **ROTARY}], ids=["gpt2", "llama", "qwen3"])
def test_fast_training_is_the_same_training(plain, store, model):
    "Attention, GELU, rotary positions, clipping and the loss are ours or changed: they end where the plain ones end."
    plain = replace(plain, model=model or plain.model)
    expected, found = reference(plain, store), train(plain, store).losses
    for domain in store.domains:
        assert math.isclose(found[domain], expected[domain], abs_tol=1e-5)


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-5), ("bf16", 2e-3)])
def test_stacked_runs_end_where_they_end_alone(plain, store, precision, tolerance):
    jobs = neighbours(replace(plain, precision=precision, evaluation={"sequences": 8, "every": 2}), store)
    together, alone = train_together(jobs, store), [train(s, store, name) for name, s in jobs]
    assert [r.name for r in together] == ["run 0", "run 1", "run 2"] and len({r.mean_loss for r in together}) == 3
    for a, b in zip(together, alone):
        assert a.spec == b.spec and a.epochs == b.epochs and a.params == b.params and a.machine["stacked"] == 3
        for x, y in [*zip(a.losses.values(), b.losses.values()), *zip(a.loss_se.values(), b.loss_se.values())]:
            assert math.isclose(x, y, abs_tol=tolerance)
        for p, q in [*zip(a.curve, b.curve), *zip([{"loss": e["losses"][store.domains[0]], **e} for e in a.evaluations], [{"loss": e["losses"][store.domains[0]], **e} for e in b.evaluations])]:
            assert (p["step"], p["tokens"]) == (q["step"], q["tokens"]) and math.isclose(p["loss"], q["loss"], abs_tol=tolerance)


def test_gradients_are_clipped_run_by_run(plain, store):
    "With one common norm, a run's update would depend on its neighbours'."
    tight = replace(plain, optimiser={**plain.optimiser, "clip": 0.05, "average_last": 0.5})
    jobs = neighbours(tight, store)
    for a, (_, s) in zip(train_together(jobs, store), jobs):
        assert math.isclose(a.mean_loss, train(s, store).mean_loss, abs_tol=1e-5)


def test_a_stack_is_killed_and_continued(plain, store, tmp_path):
    jobs = neighbours(replace(plain, optimiser={**plain.optimiser, "average_last": 0.5}), store)
    whole = train_together(jobs, store)

    class Killed(Exception):
        pass

    def kill(at):
        if at["step"] == 4:
            raise Killed
    with pytest.raises(Killed):
        train_together(jobs, store, checkpoint=tmp_path / "c.safetensors", checkpoint_seconds=0, report=kill)
    with pytest.raises(InputError, match="belongs to run"):
        train_together(jobs[::-1], store, checkpoint=tmp_path / "c.safetensors")
    again = train_together(jobs, store, checkpoint=tmp_path / "c.safetensors")
    assert [(r.losses, r.curve, r.evaluations) for r in again] == [(r.losses, r.curve, r.evaluations) for r in whole]
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_stacked_is_named(plain, spec, store):
    longer = replace(plain, mixture=Mixture.uniform(store.domains, 186 * 64, multiple=64))
    with pytest.raises(InputError, match="'a', 'b' differ"):
        train_together([("a", plain), ("b", longer)], store)
    with pytest.raises(InputError, match="'a', 'b' have dropout"):
        train_together([("a", spec), ("b", replace(spec, seed=1))], store)


def test_compiled_once_for_all_runs_and_to_the_same_losses(plain, store):
    "One graph serves training and evaluation of every run of a shape; a second shape compiles a second one."
    import torch
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    jobs = neighbours(plain, store)
    compiled = [train(s, store, compile=True) for _, s in jobs]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    for a, (_, s) in zip(compiled, jobs):
        assert math.isclose(a.mean_loss, train(s, store).mean_loss, abs_tol=1e-5)


def test_kept_weights_are_the_judged_ones(plain, store, tmp_path):
    "Alone and in a stack, with averaged weights: what is loaded gives the record's losses."
    import torch
    jobs = neighbours(replace(plain, optimiser={**plain.optimiser, "average_last": 0.5}), store)
    for records, folder in ((train_together(jobs, store, keep=tmp_path / "together"), "together"), ([train(jobs[0][1], store, keep=tmp_path / "alone")], "alone")):
        (tmp_path / "plain").touch()
        assert {p.name: p.stat().st_mode for p in (tmp_path / folder).iterdir()} == {f"{r.spec.hash}.safetensors": (tmp_path / "plain").stat().st_mode for r in records}  # whole, and for others to read
        for r in records:
            model = load_model(r.spec, store, tmp_path / folder / f"{r.spec.hash}.safetensors")
            for domain in store.domains:
                with torch.no_grad():
                    nats = sequence_nats(model, torch.from_numpy(held_out(store, domain, 64, plain.evaluation["sequences"])))
                assert math.isclose(float(nats.mean()) / 63, r.losses[domain], abs_tol=1e-5)


@pytest.mark.parametrize("kind, draws", [("gpt2", False), ("opt", True), ("biogpt", True), ("llama", False)])
def test_dropout_that_is_no_module_is_seen(plain, store, kind, draws):
    "OPT and BioGPT call dropout as a function; GPT-2's summary dropout belongs to another head."
    small = {"gpt2": plain.model, "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
             "opt": {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "word_embed_proj_dim": 32}, "biogpt": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}}[kind]
    assert has_dropout(build_model(replace(plain, model={"model_type": kind, **small}), store)) is draws


def test_a_stack_with_fused_attention_is_the_same_stack(plain, store):
    "What a GPU takes, on the CPU: logits and gradients of two stacked models are those of the two alone."
    import torch
    from transformers import AutoModelForCausalLM
    models = []
    for seed in (0, 1):
        config = build_model(replace(plain, seed=seed), store).config
        torch.manual_seed(seed)
        models.append(AutoModelForCausalLM.from_config(config, attn_implementation="sdpa"))
    rows = torch.from_numpy(held_out(store, store.domains[0], 64, 6))
    stack = Stack(models)
    sequence_nats(stack, rows).sum().backward()
    for k, model in enumerate(models):
        found = sequence_nats(model, rows[3 * k:3 * k + 3])
        found.sum().backward()
        for (name, p), slices in zip(model.named_parameters(), stack.slices):
            assert torch.allclose(slices.grad[k], p.grad, atol=1e-4), name


def test_compiled_stack_in_bf16(plain, store):
    "What a sweep with `compile` and `stack` runs."
    jobs = neighbours(replace(plain, precision="bf16"), store)
    for a, (_, s) in zip(train_together(jobs, store, compile=True), jobs):
        assert math.isclose(a.mean_loss, train(s, store).mean_loss, abs_tol=2e-3) and {"data", "first step", "forward and backward", "optimiser", "evaluation"} <= set(a.parts)
