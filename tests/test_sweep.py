"""Designs, and a sweep killed with SIGKILL: no finished run is lost, none is trained twice."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunStore, RunTable, read_run_table, write_run_table
from autoscale.sweep import amounts_design, ddo_design, design_table, jobs_from_design, random_design, read_settings, sweep
from autoscale.trainer import OPTIMISER


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.integers(9, 500), min_size=2, max_size=9), st.sampled_from([2.0, 3.0, 5.5]), st.sampled_from([1, 64]))
def test_a_design_changes_one_domain_at_a_time(amounts, factor, multiple):
    base = Mixture([f"d{i}" for i in range(len(amounts))], [n * multiple for n in amounts])
    design = ddo_design(base, factor, multiple)
    assert len(design) == 2 * len(amounts) + 1 and design[0] == ("base", base) and len({name for name, _ in design}) == len(design)
    for k, (_, mixture) in enumerate(design[1:]):
        changed = [i for i, (a, b) in enumerate(zip(mixture.tokens, base.tokens)) if a != b]
        assert changed == [k // 2]
        exact = base.tokens[k // 2] * (factor if k % 2 == 0 else 1 / factor)
        assert abs(mixture.tokens[k // 2] - exact) <= multiple / 2 and mixture.tokens[k // 2] % multiple == 0


def test_a_domain_with_too_few_tokens_is_refused_by_name():
    with pytest.raises(InputError, match=r"'b'.*at least 192 tokens"):
        ddo_design(Mixture(("a", "b"), (1920, 64)), multiple=64)


def test_the_names_and_amounts_of_a_design_are_those_of_its_records():
    design = ddo_design(Mixture(("a", "b"), (49 * 64, 10 * 64)), 3, 64)
    assert [(name, [n // 64 for n in mixture.tokens]) for name, mixture in design] == [("base", [49, 10]), ("a x3", [147, 10]), ("a /3", [16, 10]), ("b x3", [49, 30]), ("b /3", [49, 3])]
    assert [name for name, _ in ddo_design(Mixture(("a", "b"), (900, 900)), 5.5)][1:3] == ["a x5.5", "a /5.5"]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.integers(20, 500), min_size=2, max_size=9), st.lists(st.sampled_from([1/9, 1/5.5, 1/3, .5, 2., 3., 5.5, 9.]), min_size=1, unique=True), st.sampled_from([1, 64]), st.data())
def test_more_amounts_of_one_domain_change_that_domain_only(amounts, factors, multiple, data):
    base = Mixture([f"d{i}" for i in range(len(amounts))], [n * multiple for n in amounts])
    domain = data.draw(st.sampled_from(base.domains))
    design = amounts_design(base, domain, factors, multiple)
    assert [name for name, _ in design] == [f"{domain} x{f:g}" if f > 1 else f"{domain} /{1 / f:g}" for f in factors]
    for factor, (_, mixture) in zip(factors, design):
        assert all(mixture[d] == base[d] for d in base.domains if d != domain)
        assert mixture[domain] % multiple == 0 and 0 < mixture[domain] != base[domain] and abs(mixture[domain] - base[domain] * factor) <= multiple / 2 + 1e-6


def test_amounts_that_are_none_or_no_other_are_refused_with_what_is_enough():
    base = Mixture(("a", "b"), (192, 640))
    with pytest.raises(InputError, match=r"'a': 192 tokens /9 are 0 .*at least 576 tokens"): amounts_design(base, "a", [1/9], 64)
    with pytest.raises(InputError, match=r"'a': 192 tokens x1.1 are 192 .*at least 640 tokens"): amounts_design(base, "a", [1.1], 64)
    assert amounts_design(Mixture(("a", "b"), (576, 640)), "a", [1/9], 64)[0][1].tokens == (64, 640)
    with pytest.raises(InputError, match="'c' is not in the base mixture of a, b"): amounts_design(base, "c", [3])
    for factor in (0, -1, 1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="factor"): amounts_design(base, "b", [factor])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(0, 9), st.integers(0, 10**6), st.sampled_from([1, 64]))
def test_random_mixtures_have_the_budget_and_every_domain(amounts, count, seed, multiple):
    base = Mixture([f"d{i}" for i in range(len(amounts))], [n * multiple for n in amounts])
    design = random_design(base, count, seed, multiple)
    assert [name for name, _ in design] == [f"random {k}" for k in range(1, count + 1)]
    for _, mixture in design:
        assert mixture.total == base.total and mixture.domains == base.domains
        assert all(n >= multiple and n % multiple == 0 for n in mixture.tokens)
    assert random_design(base, count + 3, seed, multiple)[:count] == design  # more of them keep those that there are


def test_random_mixtures_go_from_mild_to_strong_around_the_base():
    base = Mixture(tuple("abcdefg"), tuple(n * 128 for n in (100, 200, 300, 400, 500, 600, 700)))
    drawn = np.array([x.weights / base.weights for _, x in random_design(base, 3000, 5, 128)]).reshape(1000, 3, 7)
    mild, medium, strong = np.log(drawn).std((0, 2))
    assert mild < medium < strong
    assert np.abs(drawn.mean((0, 1)) - 1).max() < .05  # around the base, also one that is not uniform
    uniform = np.array([7 * x.weights for _, x in random_design(Mixture.uniform("abcdefg", 7 * 1152 * 128, 128), 3000, 5, 128)])
    assert np.quantile(uniform, [.02, .98]) == pytest.approx([.2, 2.3], abs=.06)
    assert random_design(base, 3, 5, 128) != random_design(base, 3, 6, 128)


def test_a_base_without_a_domain_has_no_random_mixtures():
    with pytest.raises(InputError, match=r"'b': the base has 0 tokens of it, less than one sequence of 64"): random_design(Mixture(("a", "b"), (640, 0)), 1, 0, 64)


@pytest.mark.parametrize("factor", [1.0, 0.5, float("inf"), float("nan")])
def test_a_factor_that_enlarges_nothing_is_refused(factor):
    with pytest.raises(InputError, match=r"factor .* finite one above 1"):
        ddo_design(Mixture(("a", "b"), (900, 900)), factor)


def test_design_table_goes_through_a_file_into_jobs(tmp_path, store):
    write_run_table(tmp_path / "design.csv", design_table([Mixture.uniform(store.domains, n * 3 * 9 * 64, multiple=64) for n in (1, 4)], multiple=64))
    (tmp_path / "s.yml").write_text("model: {model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2}\ncontext: 64\nbatch: 8\nseeds: [0, 1]\ntarget: 5\n")
    jobs = jobs_from_design(read_run_table(tmp_path / "design.csv", trained=False), store.hash, read_settings(tmp_path / "s.yml"))
    assert len(jobs) == 28 and len({spec.hash for _, spec in jobs}) == 28
    (tmp_path / "s.yml").write_text("model: {model_type: gpt2}\n")
    with pytest.raises(InputError, match="context, batch not given"):
        read_settings(tmp_path / "s.yml")


CHILD = """
import json, sys
from pathlib import Path
from autoscale.corpus import open_store
from autoscale.runs import RunSpec, RunStore
from autoscale.sweep import sweep
if __name__ == "__main__":
    jobs = [(name, RunSpec.from_dict(d)) for name, d in json.loads(Path(sys.argv[2]).read_text())]
    sweep(jobs, open_store(sys.argv[1]), RunStore(sys.argv[3]), workers=2, checkpoint_seconds=0.2)
"""


def test_killed_sweep_loses_no_finished_run_and_leaves_no_process(store, spec, tmp_path):
    jobs = [(name, replace(spec, mixture=mixture)) for name, mixture in ddo_design(spec.mixture, multiple=64)]
    (tmp_path / "jobs.json").write_text(json.dumps([(name, s.to_dict()) for name, s in jobs]))
    (tmp_path / "child.py").write_text(CHILD)
    runs = RunStore(tmp_path / "runs")
    child = subprocess.Popen([sys.executable, tmp_path / "child.py", store.path, tmp_path / "jobs.json", tmp_path / "runs"], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while len(list(runs.folder.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(.05)
    os.kill(child.pid, signal.SIGKILL)  # the parent alone: its workers have to notice by themselves
    child.wait()
    group = lambda: [p for p in os.listdir("/proc") if p.isdigit() and _group(p) == child.pid]
    while group() and time.monotonic() < deadline:
        time.sleep(.1)
    assert not group(), "workers of a killed sweep are still running"
    before = {p.name: p.stat().st_mtime_ns for p in runs.folder.glob("*.json")}
    assert 3 <= len(before) < 7
    records = sweep(jobs, store, runs, workers=2)
    assert [r.name for r in records] == [name for name, _ in jobs] and all(r.status == "finished" for r in records)
    assert {n: (runs.folder / n).stat().st_mtime_ns for n in before} == before, "a finished run was written again"
    assert not list((runs.folder / "checkpoints").glob("*.safetensors"))


def test_an_idle_worker_ends_with_a_killed_sweep_too(store, spec, tmp_path):
    "One long and one short run: when the short one is done, its worker waits for work and reports nothing."
    long = replace(spec, mixture=Mixture.uniform(store.domains, 5760 * 64, multiple=64))
    (tmp_path / "jobs.json").write_text(json.dumps([("long", long.to_dict()), ("short", spec.to_dict())]))
    (tmp_path / "child.py").write_text(CHILD)
    child = subprocess.Popen([sys.executable, tmp_path / "child.py", store.path, tmp_path / "jobs.json", tmp_path / "runs"], stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not list((tmp_path / "runs").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 60
    while [p for p in os.listdir("/proc") if p.isdigit() and _group(p) == child.pid] and time.monotonic() < deadline:
        time.sleep(.1)
    assert not [p for p in os.listdir("/proc") if p.isdigit() and _group(p) == child.pid]
    assert len(list((tmp_path / "runs").glob("*.json"))) == 1, "the long run was not under way any more"


def test_equal_specifications_are_trained_once(store, spec, tmp_path):
    short = replace(spec, mixture=Mixture.uniform(store.domains, 24 * 64, multiple=64), evaluation={"sequences": 4, "every": 0})
    one, same = sweep([("one", short), ("same", short)], store, RunStore(tmp_path))
    assert one == same and one.name == "one"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_cannot_be_trained_ends_the_sweep_by_name(store, spec, tmp_path, workers):
    bad = replace(spec, model={"model_type": "gpt2", "n_embd": 33, "n_head": 2})
    with pytest.raises((InputError, RuntimeError), match="'bad'"):
        sweep([("bad", bad), ("long", replace(spec, mixture=Mixture.uniform(store.domains, 5760 * 64, multiple=64)))], store, RunStore(tmp_path), workers=workers)


def test_a_run_that_cannot_be_laid_out_is_refused_before_any_is_trained(store, spec, tmp_path):
    uneven = replace(spec, mixture=Mixture(store.domains, (64, 64, 100)))
    with pytest.raises(InputError, match=r"'uneven'.*whole sequences of 64"):
        sweep([("good", spec), ("uneven", uneven)], store, RunStore(tmp_path / "runs"), workers=2)
    assert not (tmp_path / "runs").exists()


def _group(pid):
    "Process group, or None for a process that is gone or a zombie."
    try:
        with open(f"/proc/{pid}/stat") as f:
            state, _, group = f.read().rpartition(")")[2].split()[:3]
        return None if state == "Z" else int(group)
    except OSError:
        return None


def test_one_diverging_run_does_not_stop_the_sweep(store, spec, tmp_path):
    short = replace(spec, mixture=Mixture.uniform(store.domains, 48 * 64, multiple=64), evaluation={"sequences": 4, "every": 0})
    jobs = [("wild", replace(short, optimiser={**OPTIMISER, "learning_rate": 100.0, "warmup": 0.0})), ("tame", short)]
    records = sweep(jobs, store, RunStore(tmp_path))
    assert [r.status for r in records] == ["failed", "finished"]
    assert sweep(jobs, store, RunStore(tmp_path)) == records  # the failure is a result: it is not trained again either


def test_run_table_of_a_design_has_no_losses():
    table = design_table([Mixture.uniform("abc", 900)])
    assert isinstance(table, RunTable) and table.validation == () and len(table) == 7


def _plain(spec):
    return replace(spec, model={**spec.model, "resid_pdrop": 0, "embd_pdrop": 0}, evaluation={"sequences": 4, "every": 0})


def test_stacked_sweep_trains_every_run_once(store, spec, tmp_path):
    "The base run has a length of its own; the three enlarged and the three reduced ones go in stacks."
    base = replace(_plain(spec), mixture=Mixture.uniform(store.domains, 36 * 64 * 3, multiple=64))
    jobs = [(name, replace(base, mixture=mixture)) for name, mixture in ddo_design(base.mixture, multiple=64)]
    records = sweep(jobs, store, RunStore(tmp_path), stack=3)
    assert [r.name for r in records] == [name for name, _ in jobs] and [r.spec for r in records] == [s for _, s in jobs]
    assert [r.machine["stacked"] for r in records] == [1] + 6 * [3]
    assert not list((tmp_path / "checkpoints").glob("*")) and sweep(jobs, store, RunStore(tmp_path), stack=2) == records


def test_a_run_with_fewer_unique_tokens_is_stacked_with_one_that_has_all(store, spec, tmp_path):
    base = replace(_plain(spec), precision="fp32", mixture=Mixture.uniform(store.domains, 36 * 64 * 3, multiple=64))
    name = store.domains[0]
    jobs = [("all", base), ("few", replace(base, unique={name: 3 * 64})), ("enough", replace(base, unique={name: 36 * 64}))]
    free, limited, enough = sweep(jobs, store, RunStore(tmp_path / "together"), stack=3)
    assert [r.machine["stacked"] for r in (free, limited, enough)] == [3, 3, 3] and limited.epochs[name] == 12 > 1 == enough.epochs[name]
    assert enough.losses == free.losses and limited.losses[name] > free.losses[name]
    [alone] = sweep(jobs[1:2], store, RunStore(tmp_path / "alone"))
    assert all(abs(alone.losses[d] - limited.losses[d]) < 1e-5 for d in store.domains)


def test_a_diverging_run_does_not_touch_its_neighbours(store, spec, tmp_path, monkeypatch):
    "One of three models starts from weights so large that its loss is not finite: it fails alone."
    from autoscale import trainer
    start, base = trainer.build_model, replace(_plain(spec), precision="fp32", mixture=Mixture.uniform(store.domains, 9 * 64 * 3, multiple=64))

    def broken(s, *rest):
        model = start(s, *rest)
        if s.seed == 1 and str(rest[-1]) != "meta":
            next(model.parameters()).data.fill_(float("inf"))
        return model
    monkeypatch.setattr(trainer, "build_model", broken)
    records = sweep([(f"seed {k}", replace(base, seed=k)) for k in range(3)], store, RunStore(tmp_path), stack=3)
    assert [r.status for r in records] == ["finished", "failed", "finished"] and records[1].losses == {} and "step" in records[1].reason
    monkeypatch.undo()
    for k in (0, 2):
        assert trainer.train(replace(base, seed=k), store).mean_loss == pytest.approx(records[k].mean_loss, abs=1e-5)


def test_dropout_and_a_stack_are_refused_before_anything_is_trained(store, spec, tmp_path):
    with pytest.raises(InputError, match=r"'base'.*dropout.*stack to 1"):
        sweep([("base", spec)], store, RunStore(tmp_path / "runs"), stack=2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("model", [{"model_type": "gpt2", "n_embd": 33, "n_head": 2}, {"model_type": "gpt2", "n_embd": 32, "n_head": 3}, {"model_type": "gpt2", "n_layer": "two"}])
def test_a_model_that_cannot_be_built_is_refused_before_any_is_trained(store, spec, tmp_path, model):
    with pytest.raises(InputError, match="'bad'"):
        sweep([("good", spec), ("bad", replace(spec, model=model))], store, RunStore(tmp_path / "runs"), workers=2)
    assert not (tmp_path / "runs").exists()


def test_no_compiler_is_one_clear_line(store, spec, tmp_path, monkeypatch):
    from torch._inductor import cpp_builder
    cpp_builder.cpp_compiler_search.cache_clear()  # torch remembers the compiler that another test has found
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"no C\+\+ compiler"):
        sweep([("base", spec)], store, RunStore(tmp_path / "runs"), compile=True)


def test_an_error_in_a_worker_is_the_only_thing_said(store, spec, tmp_path):
    "The records' folder cannot be written: one error that names the run, no noise from the processes that are ended."
    short, blocked = replace(_plain(spec), mixture=Mixture.uniform(store.domains, 96 * 64, multiple=64)), tmp_path / "runs"
    blocked.write_text("a file where the records belong")
    (tmp_path / "jobs.json").write_text(json.dumps([(f"seed {k}", replace(short, seed=k).to_dict()) for k in range(6)]))
    (tmp_path / "child.py").write_text(CHILD.replace("    sweep(", "    from autoscale.mixture import InputError\n    try: sweep(") + "    except InputError as e: sys.exit(f'ONE LINE {e}')\n")
    done = subprocess.run([sys.executable, tmp_path / "child.py", store.path, tmp_path / "jobs.json", blocked], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "ONE LINE run 'seed" in done.stderr and "Traceback" not in done.stderr and "Exception" not in done.stderr


def _command(folder, script, store, jobs):
    "What starts `script` as a process of its own on these jobs, its records in `folder/runs`."
    (folder / "jobs.json").write_text(json.dumps([(name, s.to_dict()) for name, s in jobs]))
    (folder / "child.py").write_text(script)
    return [sys.executable, folder / "child.py", store.path, folder / "jobs.json", folder / "runs"]


def _runs_of(checkpoint):
    with safe_open(checkpoint, "pt") as f:
        return f.metadata()["spec"].split()


STACKED = CHILD.replace("workers=2, checkpoint_seconds=0.2", "workers=2, stack=3, checkpoint_seconds=0.05")


def test_a_killed_stacked_sweep_goes_on_from_its_checkpoints(store, spec, tmp_path):
    "Twelve runs of one shape in groups of three: whatever is finished when the kill comes, the groups that were under way stay together and their checkpoints are used and removed."
    base = replace(_plain(spec), mixture=Mixture.uniform(store.domains, 576 * 64, multiple=64))
    jobs = [(f"seed {k}", replace(base, seed=k)) for k in range(12)]
    runs, checkpoints = RunStore(tmp_path / "runs"), tmp_path / "runs/checkpoints"
    child = subprocess.Popen(_command(tmp_path, STACKED, store, jobs), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not (len(list(runs.folder.glob("*.json"))) >= 3 and list(checkpoints.glob("*.safetensors"))) and time.monotonic() < deadline:
        time.sleep(.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    done = {r.spec.hash for r in runs}
    left = {p.name for p in checkpoints.glob("*.safetensors") if not done.issuperset(_runs_of(p))}
    assert left and 3 <= len(list(runs.folder.glob("*.json"))) < 12
    began = {}

    def listen(name, *rest, **options):
        began[options["checkpoint"].name] = options["checkpoint"].exists()
        return train_together(name, *rest, **options)
    from autoscale import trainer
    train_together = trainer.train_together
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_together", listen)
        records = sweep(jobs, store, runs, workers=1, stack=5)  # another division of the work: what is under way keeps its own
    assert {name for name, existed in began.items() if existed} == left and all(r.status == "finished" for r in records)
    assert not list(checkpoints.glob("*"))


def test_a_stacked_sweep_that_is_killed_before_its_first_checkpoint_ends_in_the_same_bits(store, spec, tmp_path):
    "A run is rounded otherwise in other company: what was laid out together stays together."
    base = replace(_plain(spec), mixture=Mixture.uniform(store.domains, 288 * 64, multiple=64))
    jobs = [(f"seed {k}", replace(base, seed=k)) for k in range(10)]  # in groups of 3, 3, 2 and 2
    runs, checkpoints = RunStore(tmp_path / "runs"), tmp_path / "runs/checkpoints"
    child = subprocess.Popen(_command(tmp_path, CHILD.replace("workers=2, checkpoint_seconds=0.2", "workers=2, stack=3, checkpoint_seconds=1000"), store, jobs), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    while not list(runs.folder.glob("*.json")): assert child.poll() is None and time.monotonic() < deadline; time.sleep(.01)
    os.killpg(child.pid, signal.SIGKILL); child.wait()
    done = {r.spec.hash for r in runs}
    assert 0 < len(done) <= 6 and len(list(checkpoints.glob("*.group"))) >= 2 and not list(checkpoints.glob("*.safetensors"))
    shutil.copytree(runs.folder, tmp_path / "smaller")
    short = sweep(jobs, store, RunStore(tmp_path / "smaller"), stack=1)  # what a machine with less memory is asked for
    assert {r.machine["stacked"] for r in short if r.spec.hash not in done} == {1}
    records, alone = sweep(jobs, store, runs, workers=2, stack=3), sweep(jobs, store, RunStore(tmp_path / "alone"), workers=2, stack=3)
    assert [(r.losses, [c["loss"] for c in r.curve], r.machine["stacked"]) for r in records] == [(r.losses, [c["loss"] for c in r.curve], r.machine["stacked"]) for r in alone]
    assert not list(checkpoints.glob("*")) and not list((tmp_path / "smaller/checkpoints").glob("*"))


KILLED_AT_ITS_RECORDS = """
import json, os, signal, sys
from pathlib import Path
from autoscale.corpus import open_store
from autoscale.runs import RunSpec, RunStore
from autoscale.sweep import sweep

class Killed(RunStore):
    def put(self, record):
        super().put(record)
        os.kill(os.getpid(), signal.SIGKILL)

jobs = [(name, RunSpec.from_dict(d)) for name, d in json.loads(Path(sys.argv[2]).read_text())]
sweep(jobs, open_store(sys.argv[1]), Killed(sys.argv[3]), stack=3, checkpoint_seconds=0)
"""


def test_a_kill_among_a_stacks_records_costs_no_training(store, spec, tmp_path):
    "Killed after the first of three records: the stack's checkpoint is still there, and what is left of it is trained from its last step."
    base = replace(_plain(spec), mixture=Mixture.uniform(store.domains, 36 * 64, multiple=64))
    jobs = [(f"seed {k}", replace(base, seed=k)) for k in range(3)]
    runs, checkpoints = RunStore(tmp_path / "runs"), tmp_path / "runs/checkpoints"
    child = subprocess.run(_command(tmp_path, KILLED_AT_ITS_RECORDS, store, jobs), stderr=subprocess.DEVNULL, timeout=600)
    [checkpoint] = checkpoints.glob("*.safetensors")
    assert child.returncode == -signal.SIGKILL and len(list(runs)) == 1
    shutil.copy(checkpoint, tmp_path / "stale.safetensors")
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        from autoscale import trainer
        train_together = trainer.train_together
        patch.setattr(trainer, "train_together", lambda *rest, report, **options: train_together(*rest, report=lambda at: steps.append(at["step"]), **options))
        records = sweep(jobs, store, runs, stack=3)
    assert len(steps) <= 1 and [r.machine["stacked"] for r in records] == 3 * [3]
    assert [r.losses for r in records] == [r.losses for r in sweep(jobs, store, RunStore(tmp_path / "whole"), stack=3)]
    assert not list(checkpoints.glob("*"))
    shutil.copy(tmp_path / "stale.safetensors", checkpoints / checkpoint.name)  # killed between the last record and the checkpoint's end
    assert len(sweep([*jobs, ("seed 3", replace(base, seed=3))], store, runs, stack=3)) == 4 and not list(checkpoints.glob("*"))
