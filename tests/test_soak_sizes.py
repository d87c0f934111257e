"""The sizes that are promised: a thousand runs through one store, mixtures of ten thousand domains, tables of a hundred thousand runs.

`make test` runs what takes seconds; the rest is marked `soak`:

    .venv/bin/python -m pytest -m soak -s tests/test_soak_sizes.py

Memory is measured in a process of its own, which is this file run as a program: `python tests/test_soak_sizes.py PART FOLDER`."""
import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from autoscale.ddo import DDOLaw, Design, DomainPoints, PowerLaw, find_designs, fit_ddo
from autoscale.export import block_counts, export_mixture
from autoscale.imports import read_runs
from autoscale.mixture import InputError, Mixture, epoch_caps, limit_weights, load_mixture, round_to_total, save_mixture, with_epochs
from autoscale.projection import project
from autoscale.runs import RunRecord, RunSpec, RunStore, RunTable, read_run_table, run_table, write_run_table
from autoscale.sampler import schedule
from autoscale.sweep import random_design, sweep
from autoscale.trainer import OPTIMISER

# Runs ------------------------------------------------------------------------------------------------------------------------------------

TINY = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 1, "resid_pdrop": 0., "embd_pdrop": 0., "attn_pdrop": 0.}
FILES = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.chmod"}  # as Python audits them
_audience = []  # an audit hook cannot be taken away again: it is added once, and tells whoever listens


def _heard(event, arguments):
    if event in FILES:
        for listener in _audience: listener(event, arguments)


class Counted(RunStore):
    """A store that counts, between one record and the next: what is done with files, `os.stat`, and every call of a function of the package and resumption of its generators.

    Calls are counted for the last fifth of every `window` records, times taken for the rest: counting costs time."""
    def __init__(self, folder, window):
        super().__init__(folder); self.window, self.done, self.seconds, self.last = window, 0, [], self.clocks()
        self.files, self.calls, self.listed, self.names = [Counter()], [0], [], []

    @staticmethod
    def clocks(): return np.array([time.perf_counter(), time.process_time()])  # the second is not slowed by what else the machine does

    def __enter__(self):
        if not hasattr(Counted, "hooked"): sys.addaudithook(_heard); Counted.hooked = True
        _audience.append(self.tell); self.stat = os.stat
        def stat(path, *a, **k): self.files[-1]["os.stat"] += 1; return self.stat(path, *a, **k)
        os.stat = stat
        return self

    def __exit__(self, *_): _audience.remove(self.tell); os.stat = self.stat; sys.setprofile(None)

    def tell(self, event, arguments):
        self.files[-1][event] += 1
        if event in ("os.listdir", "os.scandir") and str(arguments[0]).startswith(str(self.folder)): self.listed.append((self.done, str(arguments[0])))

    def called(self, frame, event, _):
        if event == "call" and "autoscale" in frame.f_code.co_filename and "tests" not in frame.f_code.co_filename: self.calls[-1] += 1

    def put(self, record):
        path = super().put(record); sys.setprofile(None)
        self.done += 1; self.names.append(record.name)
        now = self.clocks(); counted = (self.done - 1) % self.window >= self.window * 4 // 5
        if not counted: self.seconds.append((self.done - 1, now - self.last))
        self.files.append(Counter()); self.calls.append(0)
        if self.done % self.window >= self.window * 4 // 5: sys.setprofile(self.called)
        self.last = self.clocks()
        return path


@pytest.mark.parametrize("runs, window", [(50, 10), pytest.param(1000, 100, marks=pytest.mark.soak)])
def test_a_record_costs_the_same_however_many_there_are(runs, window, store, tmp_path):
    base = Mixture.uniform(store.domains, 24 * 16, multiple=16)
    mixtures = [mixture for _, mixture in random_design(base, 10, seed=0, multiple=16)]
    spec = RunSpec(base, store.hash, TINY, OPTIMISER, context=16, batch=12, precision="fp32", evaluation={"sequences": 1, "every": 0})
    jobs = [(f"run {i}", replace(spec, mixture=mixtures[i % 10], seed=i // 10)) for i in range(runs)]
    with Counted(tmp_path / "runs", window) as kept: records = sweep(jobs, store, kept, checkpoint_seconds=1e9)

    assert [r.status for r in records] == ["finished"] * runs and [r.name for r in records] == [name for name, _ in jobs]
    assert len({r.spec.hash for r in records}) == runs == len(set(kept.names)) and len(kept.names) == runs  # each was recorded once
    files = sorted((tmp_path / "runs").glob("*.json"))
    assert [f.stem for f in files] == sorted(r.spec.hash for r in records) and os.listdir(tmp_path / "runs" / "checkpoints") == []  # no lock, no checkpoint is left behind
    assert {r.spec.hash: r for r in RunStore(tmp_path / "runs")} == {r.spec.hash: r for r in records}  # read back from disk, checksums and all
    assert len({tuple(r.losses.values()) for r in records}) == runs  # really trained: no two alike
    assert len(run_table(records)) == runs

    for k in range(0, runs, window):
        took = 1000 * np.array([s for i, s in kept.seconds if k <= i < k + window])
        print(f"records {k + 1} to {k + window}: {took[:, 0].mean():.1f} ms each, {took[:, 1].mean():.1f} of the processor (median {np.median(took[:, 1]):.1f}), {sum(sum(c.values()) for c in kept.files[k:k + window]) / window:.1f} uses of files each")
    later = [sum(kept.files[k:k + window], Counter()) for k in range(window, runs, window)]  # the first records load the modules of torch and transformers
    assert all(window <= of["os.rename"] for of in later)  # the counter counts
    half = len(later) // 2
    for what in FILES | {"os.stat"}: assert sum(of[what] for of in later[-half:]) <= sum(of[what] for of in later[:half]), (what, [of[what] for of in later])
    assert all(before == 0 for before, _ in kept.listed), kept.listed  # a listing costs as much as there are records, so none is made once there are some
    counted = [sum(kept.calls[k + window * 4 // 5:k + window]) for k in range(0, runs, window)]
    print(f"calls in the package for {window // 5} records: {counted}")
    assert min(counted) > window and max(counted[half:]) <= max(counted[1:half + 1]), counted

    with Counted(tmp_path / "runs", window) as again: assert sweep(jobs, store, again) == records
    assert not again.names and again.files[0]["open"] == runs and not again.files[0]["os.rename"]  # each record is read once, nothing is trained
    assert again.listed == [(0, str(tmp_path / "runs" / "checkpoints"))]  # for locks that a killed process left; the records are not listed


# A process of its own ---------------------------------------------------------------------------------------------------------------------

def peak() -> float:
    "Most MB that this process held so far. ru_maxrss begins with that of the process that started it."
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def alone(part: str, folder: Path) -> dict:
    "Run a part of this file in a process of its own; what it found, the peak of its memory in MB and of that what the imports take."
    if not Path("/proc/self/status").exists(): pytest.skip("the peak of a process is read from /proc")
    done = subprocess.run([sys.executable, __file__, part, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{part}: peak {found['peak']:.0f} MB, of it {found['imports']:.0f} MB for the imports; " + ", ".join(f"{k} {v:.2f} s" for k, v in found["seconds"].items()))
    return found


class Seconds(dict):
    "Seconds of each step, by its name."
    def __call__(self, name, step):
        began = time.perf_counter(); result = step(); self[name] = round(time.perf_counter() - began, 3)
        return result


# Domains ----------------------------------------------------------------------------------------------------------------------------------

M, CONTEXT = 10_000, 64
DOMAINS = tuple(f"domain {i}" for i in range(M))
MIXTURE_PEAK = 800  # MB; a table of domains by domains is 800 alone


def mixtures(folder: Path, took: Seconds) -> dict:
    "What a mixture of M domains goes through, from weights to a framework's file; every number is checked against its definition."
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(M, 2.)); total = 20 * M * CONTEXT
    tokens = took("round", lambda: round_to_total(weights, total, CONTEXT))
    exact = [Fraction(float(w)) for w in weights]; whole = sum(exact)
    assert sum(tokens) == total and all(n % CONTEXT == 0 and abs(n - total * w / whole) < CONTEXT for n, w in zip(tokens, exact))
    mixture = took("make", lambda: Mixture.from_weights(DOMAINS, weights, total, CONTEXT, method="test"))
    assert mixture.tokens == tuple(tokens) and mixture.total == total
    assert np.array_equal(took("weights", lambda: mixture.weights), np.array(tokens) / total)

    available = {d: CONTEXT * int(n) for d, n in zip(DOMAINS, rng.integers(5, 40, M))}
    annotated = took("epochs", lambda: with_epochs(mixture, available))
    took("save", lambda: save_mixture(folder / "mixture.json", annotated)); loaded = took("load", lambda: load_mixture(folder / "mixture.json"))
    assert loaded == mixture and loaded.epochs == annotated.epochs == tuple(n / a for n, a in zip(tokens, available.values())) and loaded.method == "test"

    for unique in (None, {d: 4 * CONTEXT for d in DOMAINS}):
        run = took("schedule" + " of unique tokens" * bool(unique), lambda unique=unique: schedule(mixture, available, CONTEXT, 0, unique))
        sizes = np.array([4 if unique else n // CONTEXT for n in available.values()])
        assert np.array_equal(np.bincount(run.domain, minlength=M), np.array(tokens) // CONTEXT) and len(run) == total // CONTEXT
        key = run.domain * 1000 + run.sequence; order = np.argsort(key, kind="stable"); _, first, drawn = np.unique(key[order], return_index=True, return_counts=True)
        before = np.empty(len(run), int); before[order] = np.arange(len(run)) - np.repeat(first, drawn)
        assert np.array_equal(took("passes" + " of unique tokens" * bool(unique), lambda run=run: run.passes), before)  # counted draw by draw, not by definition
        of = key[order][first] // 1000
        assert np.array_equal(np.bincount(of, minlength=M), np.minimum(sizes, np.array(tokens) // CONTEXT))  # fresh first
        most, least = np.zeros(M, int), np.full(M, 10 ** 9); np.maximum.at(most, of, drawn); np.minimum.at(least, of, drawn)
        drew = np.array(tokens) > 0
        assert ((most - least)[drew] <= 1).all()  # none a third time before all were there twice

    cap = took("caps", lambda: epoch_caps(DOMAINS, available, total, 2.))
    inside = took("limit weights", lambda: limit_weights(weights, .1 / M, cap))
    free = (inside > .1 / M) & (inside < cap)
    assert abs(inside.sum() - 1) < 1e-12 and (inside >= .1 / M).all() and (inside <= cap).all() and 100 < free.sum() < M - 100
    c = np.median((inside / weights)[free])
    assert np.allclose(inside, np.clip(c * weights, .1 / M, cap), rtol=1e-9)

    base = rng.uniform(1e6, 1e8, M)
    laws = {d: PowerLaw(math.inf, 1., .5) if i % 100 == 7 else PowerLaw(a, b, .5) for i, (d, a, b) in enumerate(zip(DOMAINS, rng.uniform(.1, 3, M), rng.uniform(.05, .5, M)))}
    law = DDOLaw(DOMAINS, base, laws, {})
    optima, low, high = [], .1 / M, 1.5 / M
    for times in (1, 4):
        budget = times * round(base.sum())
        best = took(f"optimum at {times}", lambda budget=budget: law.optimum(budget, low, high)); optima.append(best)
        assert best.mixture.total == budget and abs(math.fsum(best.tokens) / budget - 1) < 1e-12 and best.kkt < 1e-9
        gain = np.array([-math.inf if law.laws[d].flat else math.log(law.laws[d].gamma / b) - (law.laws[d].gamma + 1) * math.log(law.laws[d].n0 + n / b) for d, n, b in zip(DOMAINS, best.tokens, base)])
        at_floor, at_cap = np.isin(DOMAINS, best.at_floor), np.isin(DOMAINS, best.at_cap); free = ~at_floor & ~at_cap
        assert min(at_floor.sum(), at_cap.sum(), free.sum()) > 50 and at_floor[7::100].all()  # all three kinds are there, and what is worth nothing is at its floor
        price = np.median(gain[free])  # a token more is worth as much in every domain that may have it, by the law's own derivative
        assert np.abs(gain[free] - price).max() < 1e-9 and gain[at_floor].max() <= price + 1e-9 and gain[at_cap].min() >= price - 1e-9
        assert np.allclose(best.tokens[at_floor], low * budget) and np.allclose(best.tokens[at_cap], high * budget)

    target = 100 * optima[1].mixture.total; small, large = (o.tokens for o in optima)
    held = [d for o in optima for d in (*o.at_floor, *o.at_cap)]
    found = took("project", lambda: project([small, large], target, at_bound=held, domains=DOMAINS))
    assert found.mixture.total == target and found.k > 0 and np.allclose(found.tokens, large * (large / small) ** found.k, rtol=1e-9)  # one k for all domains: Theorem 1
    bounded = took("project within bounds", lambda: project([small, large], target, .1 / M, 4 / M, domains=DOMAINS))
    assert bounded.mixture.total == target and (bounded.tokens >= .1 / M * target * (1 - 1e-12)).all() and (bounded.tokens <= 4 / M * target * (1 + 1e-12)).all()

    drawn = {d: n for d, n in zip(DOMAINS, tokens) if n}
    paths = {d: f"/data/{d.replace(' ', '_')}" for d in DOMAINS}
    for framework in ("megatron-lm", "levanter", "torchtitan", "hf-datasets", "json"):
        made = took(f"export to {framework}", lambda framework=framework: export_mixture(mixture, framework, paths, {d: 900. for d in DOMAINS}, {d: 10 * n for d, n in available.items()}, CONTEXT))
        weight = {d: Fraction(w) for d, w in made.weights.items()}
        assert sum(weight.values()) == 1 and list(weight) == list(drawn)
        if framework == "levanter": counts = block_counts([*weight.values()]); assert min(counts) >= 1 and sum(counts) == 2 ** 16 - 1  # a block holds every domain, so small weights are raised
        else: assert all(abs(weight[d] - Fraction(n, total)) <= Fraction(1, 10 ** 9) for d, n in drawn.items())
        made.write(folder / framework)
    pairs = json.loads((folder / "megatron-lm" / "per_split_data_args.json").read_text())["train"]
    assert pairs[1::2] == [paths[d] for d in drawn] and sum(map(Fraction, pairs[::2])) == 1
    assert load_mixture(folder / "json" / "mixture.json") == mixture
    try: export_mixture(mixture, "gpt-neox")
    except InputError as e: assert "at most 254" in str(e)
    else: raise AssertionError("GPT-NeoX blends at most 254")

    spec = RunSpec(mixture, "0" * 64, TINY, OPTIMISER, CONTEXT, 8, evaluation={"sequences": 1, "every": 0})
    records = [RunRecord(replace(spec, seed=s), f"run {s}", "finished", losses=dict(zip(DOMAINS, rng.uniform(2, 4, M).tolist())), epochs=dict(zip(DOMAINS, annotated.epochs)), params=5112) for s in range(3)]
    runs = RunStore(folder / "runs")
    took("3 records", lambda: [runs.put(r) for r in records]); table = took("run table", lambda: run_table(runs))
    assert table.domains == table.validation == DOMAINS and (table.tokens == tokens).all()
    took("write", lambda: write_run_table(folder / "wide.csv", table)); same(table, took("read", lambda: read_run_table(folder / "wide.csv")))
    return {}


def test_mixtures_of_ten_thousand_domains(tmp_path):
    "Correct at that size (the assertions are in `mixtures`), in bounded memory."
    found = alone("mixtures", tmp_path)
    assert found["imports"] < found["peak"] < MIXTURE_PEAK


@pytest.mark.soak
def test_ten_thousand_laws_are_fitted():
    "DDO from a design of 10,000 domains, 20,001 runs: the losses are those of known laws without noise, so each fit runs through its points, and where two laws do it is the one with the larger N0."
    rng = np.random.default_rng(1); base = rng.uniform(1e6, 1e8, M); amounts = np.array([1 / 3, 1., 3.])
    known = {d: (a, b) for d, a, b in zip(DOMAINS, rng.uniform(.3, 2, M), rng.uniform(.1, .5, M))}
    losses = {d: 3 * (1 + (n0 + amounts) ** -g - (n0 + 1) ** -g) for d, (n0, g) in known.items()}
    names = lambda d: ((f"{d} /3",), ("base",), (f"{d} x3",))
    design = Design(DOMAINS, ("held out",), base, np.array([3.]), {d: DomainPoints(amounts, names(d), tuple(np.array([[v]]) for v in losses[d]), ((), (), ())) for d in DOMAINS})
    began = time.perf_counter(); law = fit_ddo(design); took = time.perf_counter() - began
    print(f"\n{M:,} laws fitted in {took:.0f} s")
    n0, g = np.array(list(known.values())).T
    assert not law.problems and max(l.residual for l in law.laws.values()) < 1e-12
    lower = law.n0 < n0 * (1 - 1e-4)  # where two laws are nearly one, their N0 lies somewhere between them: the misfit there is rounding
    assert lower.sum() < M / 100 and np.allclose(law.n0[lower], n0[lower], rtol=.1)
    grid = np.geomspace(1 / 3, 3, 25)
    away = max(np.abs(l(grid) - (1 + (a + grid) ** -b - (a + 1) ** -b)).max() / abs(l(3.) - l(1 / 3)) for l, a, b in zip(law.laws.values(), n0, g))
    print(f"between the amounts that were measured, the fits are at most {away:.2g} of the measured drop away from the known laws")
    assert away < .02
    best = law.optimum(10 ** 12)
    assert best.kkt < 1e-9 and best.mixture.total == 10 ** 12 and len(best.mixture.domains) == M


# Tables -----------------------------------------------------------------------------------------------------------------------------------

N, TEN = 100_000, tuple(f"domain{i}" for i in range(10))
TABLE_PEAK = {"table_csv": 1100, "table_jsonl": 1300, "table_parquet": 1000}  # MB


def same(a: RunTable, b: RunTable):
    "Every cell, to the last digit."
    assert (a.runs, a.domains, a.validation) == (b.runs, b.domains, b.validation)
    for name in ("tokens", "losses", "params", "seed"): assert np.array_equal(getattr(a, name), getattr(b, name)), name


def many_runs() -> tuple[RunTable, dict[str, tuple[float, float]], list[str]]:
    "N runs of ten domains at random mixtures and, somewhere among them, a design whose losses follow known laws: the table, the laws, the design's runs."
    rng = np.random.default_rng(0); m = len(TEN)
    tokens = np.rint(rng.dirichlet(np.full(m, 2.), N) * np.exp(rng.uniform(math.log(1e8), math.log(1e9), N))[:, None])
    base = np.rint(rng.uniform(1e7, 1e8, m)); known = {d: (rng.uniform(.3, 2), rng.uniform(.1, .5)) for d in TEN}
    places = np.sort(rng.choice(N, 3 * m + 1, replace=False))
    tokens[places] = base
    for i in range(m): tokens[places[1 + 3 * i:4 + 3 * i], i] = 9 * base[i], 3 * base[i], np.rint(base[i] / 3)  # through three amounts two laws may run, through four one
    lost = sum((n0 + tokens[:, i] / base[i]) ** -g - (n0 + 1) ** -g for i, (n0, g) in enumerate(known.values()))
    losses = 3 * (1 + lost[:, None]) + np.linspace(-.2, .2, m)
    noisy = np.delete(np.arange(N), places); losses[noisy] += rng.normal(0, .01, (len(noisy), m))
    names = tuple(f"run {i}" for i in range(N))
    return RunTable(names, TEN, TEN, tokens, losses, np.full(N, 10 ** 8), np.arange(N)), known, [names[p] for p in places]


def table_csv(folder: Path, took: Seconds) -> dict:
    table, known, planted = many_runs()
    took("write", lambda: write_run_table(folder / "runs.csv", table)); same(table, took("read", lambda: read_run_table(folder / "runs.csv")))
    same(table, took("read whatever it is", lambda: read_runs(folder / "runs.csv")))
    designs = took("find designs", lambda: find_designs(table))
    assert len(designs) == 1 and set(designs[0].runs) == set(planted) and len(designs[0].ignored) == N - len(planted)  # the one that was hidden, and no other
    law = took("fit", lambda: fit_ddo(designs[0]))
    assert np.allclose(law.n0, [n0 for n0, _ in known.values()], rtol=1e-3) and np.allclose(law.gamma, [g for _, g in known.values()], rtol=1e-3) and law.optimum().kkt < 1e-9
    return {}


def _columns(table: RunTable) -> dict: return {"run": table.runs, **{f"tokens.{d}": c for d, c in zip(table.domains, table.tokens.T)}, **{f"loss.{d}": c for d, c in zip(table.validation, table.losses.T)}, "params": table.params, "seed": table.seed}


def table_jsonl(folder: Path, took: Seconds) -> dict:
    table, *_ = many_runs(); columns = {c: v if c == "run" else v.tolist() for c, v in _columns(table).items()}
    with open(folder / "runs.jsonl", "w") as f: f.writelines(json.dumps(dict(zip(columns, row))) + "\n" for row in zip(*columns.values()))
    same(table, took("read", lambda: read_runs(folder / "runs.jsonl")))
    return {}


def table_parquet(folder: Path, took: Seconds) -> dict:
    import pandas as pd
    table, *_ = many_runs(); pd.DataFrame(_columns(table)).to_parquet(folder / "runs.parquet")
    same(table, took("read", lambda: read_runs(folder / "runs.parquet")))
    return {}


@pytest.mark.parametrize("part", ["table_csv", *(pytest.param(p, marks=pytest.mark.soak) for p in ("table_jsonl", "table_parquet"))])
def test_tables_of_a_hundred_thousand_runs(part, tmp_path):
    "Read back exactly, the design among them found and fitted (the assertions are in the parts), in bounded memory."
    found = alone(part, tmp_path)
    assert found["imports"] < found["peak"] < TABLE_PEAK[part]


if __name__ == "__main__":
    imports, took = peak(), Seconds()
    found = globals()[sys.argv[1]](Path(sys.argv[2]), took)
    print(json.dumps({**found, "imports": imports, "peak": peak(), "seconds": took}))
