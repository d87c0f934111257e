"""Every other way to a mixture, each on a case whose answer is known, and what it costs"""
import functools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.baselines import (METHODS, Choice, Cost, Evidence, GroupDRO, autoscale_joint, autoscale_published, choose, data_mixing_laws, ddo_at_scale, doremi, doremi_update, group_dro, llama, natural, obvious, regmix,
                                 sampled_design, unimax)
from autoscale.ddo import find_designs, fit_ddo
from autoscale.joint import fit_joint
from autoscale.mixture import InputError, Mixture
from autoscale.projection import project_runs
from autoscale.published import LLAMA_WEIGHTS
from autoscale.runs import RunSpec, RunStore, RunTable, sample_run_table
from autoscale.sweep import sweep
from autoscale.trainer import train, train_together
from autoscale.worlds import SMALLER

careful = settings(deadline=None, derandomize=True, max_examples=60)
amounts = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 10**12), min_size=2)


# the corpus alone

def test_unimax_gives_the_worked_example():
    "300 over domains of 10, 30 and 1000 at 4 epochs: 40; then min(260 / 2, 120); then the rest. Order of the domains does not matter."
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        mixture = unimax({d: {"a": 10, "b": 30, "c": 1000}[d] for d in order}, 300)
        assert {d: mixture[d] for d in order} == {"a": 40, "b": 120, "c": 140} and mixture.method == "unimax"
        assert dict(zip(order, mixture.epochs)) == {"a": 4., "b": 4., "c": .14}


@given(amounts, st.integers(1, 10**13), st.floats(.1, 20), st.sampled_from([1, 64, 1024]))
@careful
def test_unimax_is_level_up_to_the_epochs_that_hold(available, total, max_epochs, multiple):
    total -= total % multiple
    caps = {d: int(max_epochs * n) // multiple for d, n in available.items()}  # in sequences
    if total < multiple or sum(caps.values()) * multiple < total:
        with pytest.raises(InputError): unimax(available, total, max_epochs, multiple)
        return
    mixture = unimax(available, total, max_epochs, multiple)
    given = {d: mixture[d] // multiple for d in available}
    assert mixture.total == total and all(mixture[d] % multiple == 0 and given[d] <= caps[d] for d in available)
    free = [given[d] for d in available if given[d] < caps[d]]
    assert all(given[d] <= level + 1 for level in free for d in available), "a domain below its limit has as much as any other, up to one sequence"


@given(amounts, st.integers(1, 10**13), st.floats(.1, 20))
@careful
def test_the_obvious_mixtures_are_those_that_need_no_runs(available, total, max_epochs):
    "In the order that is asked for, of exactly the total; what there cannot be is said; more than is asked for may be known."
    domains = tuple(reversed(available))
    found, notes = obvious(domains, total, {**available, "other": 10**12}, max_epochs)
    try: expected = {"unimax": unimax({d: available[d] for d in domains}, total, max_epochs)}
    except InputError as e: expected, why = {}, (f"unimax is left out: {e}",)
    else: why = ()
    assert notes == why and found == {"uniform": Mixture.uniform(domains, total), "natural": natural({d: available[d] for d in domains}, total), **expected}
    assert all(m.domains == domains and m.total == total and m.epochs for m in found.values())
    assert obvious(domains, total) == ({"uniform": Mixture.uniform(domains, total)}, ())
    with pytest.raises(InputError, match="no available tokens are given for"): obvious((*domains, "missing"), total, available)


@given(amounts, st.integers(1, 10**13))
@careful
def test_natural_is_within_a_token_of_its_quota(available, total):
    mixture, there_is = natural(available, total), sum(available.values())
    assert mixture.total == total and mixture.domains == tuple(available)
    assert all(abs(mixture[d] - n * total / there_is) < 1 + 1e-12 * total for d, n in available.items())
    assert np.allclose(mixture.epochs, total / there_is, rtol=1e-6, atol=1.01 / min(available.values()))


def test_what_there_is_not_enough_of_is_refused():
    with pytest.raises(InputError, match="allow 5 epochs or more"): unimax({"a": 10, "b": 10}, 100)
    with pytest.raises(InputError, match="in whole sequences of 64"): unimax({"a": 95, "b": 97}, 768, 4, 64)
    with pytest.raises(InputError, match="not a whole number of sequences"): unimax({"a": 10**6, "b": 10**6}, 100, 4, 64)
    for method in (natural, unimax):
        with pytest.raises(InputError, match="'b' has 0 tokens"): method({"a": 10, "b": 0}, 5)
        with pytest.raises(InputError, match="at least one domain"): method({}, 5)


def test_llama_keeps_its_proportions_and_says_what_has_no_match():
    same = llama(Evidence(dict.fromkeys(LLAMA_WEIGHTS, 10**9)), 10**6)
    assert same.mixture.weights == pytest.approx(list(LLAMA_WEIGHTS.values()), abs=1e-6) and same.notes == () and same.cost == Cost()
    some = llama(Evidence(dict.fromkeys(["wikipedia", "arxiv", "news"], 10**9)), 3 * 10**6)
    assert some.mixture.weights == pytest.approx([2 / 3 * .045 / .07, 2 / 3 * .025 / .07, 1 / 3], abs=1e-6)
    assert some.notes[0] == "news: not among LLaMA's sources; it keeps its uniform share" and "LLaMA's common_crawl (0.67) has no match here" in some.notes
    with pytest.raises(InputError, match="news, pubmed none are among LLaMA's sources"): llama(Evidence(dict.fromkeys(["news", "pubmed"], 9)), 9)


# the paper's runs, read in four ways

def test_methods_that_read_the_papers_runs():
    table, total = sample_run_table(), 1_179_648
    evidence = Evidence(dict.fromkeys(table.domains, 10**8), runs=table)
    designs = find_designs(table)
    for largest, design in ((False, designs[0]), (True, designs[-1])):
        choice = ddo_at_scale(evidence, total, 64, largest)
        assert choice.mixture.weights == pytest.approx(fit_ddo(design).optimum(floor=.2 / 6).tokens / design.total, abs=64 / total)
        assert choice.cost.runs == 13 and choice.cost.tokens == round(sum(table.tokens[table.runs.index(run)].sum() for run in design.runs))
    published, joint = autoscale_published(evidence, total, 64), autoscale_joint(evidence, total, 64)
    assert published.mixture.weights == pytest.approx(project_runs(table, total, floor=.2 / 6)[1].weights, abs=64 / total)
    assert joint.mixture.weights == pytest.approx(fit_joint(table).optimum(total, available=evidence.available).weights, abs=64 / total)
    for choice in (published, joint):
        assert choice.mixture.total == total and all(n % 64 == 0 for n in choice.mixture.tokens)
        assert choice.cost == Cost(26, round(table.tokens.sum()), float(6 * table.tokens.sum(1) @ table.params))


def test_a_methods_domains_are_put_in_the_order_of_what_is_available():
    table = sample_run_table(); straight = Evidence(dict.fromkeys(table.domains, 10**8), runs=table); turned = Evidence(dict.fromkeys(reversed(table.domains), 10**8), runs=table)
    a, b = (ddo_at_scale(e, 10**6).mixture for e in (straight, turned))
    assert b.domains == tuple(reversed(table.domains)) and np.abs(a.weights - b.weights[::-1]).max() < 3e-6


def test_missing_evidence_is_named():
    bare = Evidence({"a": 10**6, "b": 10**6})
    for method, part in (("AutoScale", "the paper's design at two scales"), ("RegMix", "random_design"), ("DoReMi", "DoReMi's runs"), ("Data Mixing Laws", "random mixtures at one scale")):
        with pytest.raises(InputError, match=f"^{method}: this method needs .*{part}"): choose(method, bare, 1000)
    with pytest.raises(InputError, match="'magic' is not known; choose uniform, natural"): choose("magic", bare, 1000)
    with pytest.raises(InputError, match="the runs mix wikipedia"): choose("AutoScale", replace(bare, runs=sample_run_table()), 1000)
    assert {m: choose(m, bare, 1000).mixture.tokens for m in ("uniform", "natural", "UniMax")} == dict.fromkeys(("uniform", "natural", "UniMax"), (500, 500))
    found = Choice(Mixture(("b", "a"), (30, 10)), Cost(4, 400, 1.)); assert choose("DoReMi", replace(bare, doremi=found), 1000).mixture.tokens == (250, 750)
    assert set(METHODS) >= {"uniform", "natural", "UniMax", "LLaMA", "DDO, smaller scale", "DDO, larger scale", "AutoScale", "AutoScale, joint law", "DoReMi", "Data Mixing Laws", "RegMix", "RegMix, linear"}


# sampled mixtures

@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(10**6, 10**7), min_size=3), st.integers(1, 12), st.integers(0, 1000), st.sampled_from([1, 64]))
@settings(careful, max_examples=25)
def test_sampled_mixtures_are_different_exact_and_the_first_of_more(available, count, seed, multiple):
    total = 4096 * multiple
    design = sampled_design(available, count + 3, total, seed, multiple)
    assert design[:count] == sampled_design(available, count, total, seed, multiple)
    assert len({m for _, m in design}) == len(design) and all(m.total == total and all(n % multiple == 0 for n in m.tokens) for _, m in design)
    natural_share = np.array(list(available.values())) / sum(available.values())
    assert all((m.weights <= 15 * natural_share + 1 / 4096).all() for _, m in design)


def test_where_there_are_not_so_many_different_mixtures_it_says_so():
    with pytest.raises(InputError, match="hardly 4 different mixtures"): sampled_design({"a": 5, "b": 5}, 4, 128, multiple=64)
    with pytest.raises(InputError, match="1 domains"): sampled_design({"a": 5}, 4, 128)


def evidence_from(losses, m=5, count=80, total=SMALLER, domains=None):
    available = dict.fromkeys(domains or [f"domain {i}" for i in range(m)], 10**12)
    design = sampled_design(available, count, total)
    tokens = np.array([mixture.tokens for _, mixture in design], float)
    return Evidence(available, sampled=RunTable(tuple(n for n, _ in design), tuple(available), ("x",), tokens, np.reshape(losses(tokens / total), (-1, 1)), params=np.full(count, 1000)))


@given(st.lists(st.floats(.5, 4), min_size=2, max_size=2), st.lists(st.floats(-1, 1), min_size=2, max_size=2))
@settings(careful, max_examples=10)
def test_data_mixing_laws_find_the_optimum_of_their_own_law_in_closed_form(k, b):
    "Two domains, each with a loss of its own: p = (k2 + b2 - b1 + ln(k2 / k1)) / (k1 + k2) for L_i = c_i + exp(b_i - k_i p_i), cut to the simplex."
    evidence = evidence_from(lambda w: 2 + np.exp(b[0] - k[0] * w[:, 0]) + 3 + np.exp(b[1] - k[1] * w[:, 1]), m=2, count=20)
    each = np.column_stack([2 + np.exp(b[i] - k[i] * evidence.sampled.tokens[:, i] / SMALLER) for i in (0, 1)])
    table = replace(evidence.sampled, validation=("x", "y"), losses=each)
    p = (k[1] + b[0] - b[1] + np.log(k[0] / k[1])) / (k[0] + k[1])
    assert data_mixing_laws(replace(evidence, sampled=table), 10**9).mixture.weights[0] == pytest.approx(np.clip(p, 0, 1), abs=2e-3)


def test_data_mixing_laws_with_transfer_leave_nothing_to_a_search():
    t = np.random.default_rng(3).normal(0, 1, (4, 4)) + 2 * np.eye(4)
    losses = lambda w: 2 + np.exp(-w @ t.T)
    evidence = evidence_from(lambda w: losses(w).mean(1), m=4, count=60)
    table = replace(evidence.sampled, validation=tuple("wxyz"), losses=losses(evidence.sampled.tokens / SMALLER))
    choice = data_mixing_laws(replace(evidence, sampled=table), 10**9)
    others = np.vstack([np.random.default_rng(0).dirichlet(np.ones(4), 20_000), np.eye(4)])
    assert losses(choice.mixture.weights[None]).mean() < losses(others).mean(1).min() + 1e-5
    assert choice.cost == Cost(60, 60 * SMALLER, 6 * 1000 * 60. * SMALLER) and "by 0.0000 nats" in choice.notes[0]


def test_linear_regmix_averages_the_best_of_what_it_simulates():
    slope = np.array([1., 3, 2, 5, 4]); evidence = evidence_from(lambda w: w @ slope)
    x = evidence.sampled.tokens / SMALLER; mean = x.mean(0)
    strength = (mean * (1 - mean)).sum() / x.var(0).sum() - 1  # of a Dirichlet distribution with this mean and this spread
    draws = np.random.default_rng(42).dirichlet(strength * mean + 1e-9, 100_000)
    assert draws.var(0).sum() == pytest.approx(x.var(0).sum(), rel=.02)
    choice = regmix(evidence, 10**9, linear=True)
    assert choice.mixture.weights == pytest.approx(draws[np.argsort(draws @ slope, kind="stable")[:128]].mean(0), abs=1e-4)
    assert choice.notes == ("rank correlation with left-out runs 1.00",) and choice.cost == Cost(80, 80 * SMALLER, 6 * 1000 * 80. * SMALLER)


def test_regmix_finds_what_no_line_can():
    "Lowest at a mixture inside: half of domain 0, half of domain 1. Trees see it; the line goes to a corner."
    inside = np.array([.5, .5, 0, 0, 0]); loss = lambda w: 3 + 4 * ((w - inside) ** 2).sum(1)
    evidence = evidence_from(loss, count=120)
    trees, line = (regmix(evidence, 10**9, linear=linear).mixture.weights for linear in (False, True))
    missed = lambda w: loss(w[None])[0] - 3
    assert missed(trees) < .15 * missed(np.full(5, .2)) and missed(line) > missed(np.full(5, .2)) and line.max() > .95


def test_sampled_runs_that_cannot_be_read_are_refused(monkeypatch):
    evidence = evidence_from(lambda w: w[:, 0])
    table = evidence.sampled
    two = replace(evidence, sampled=replace(table, tokens=table.tokens * np.where(np.arange(80) < 40, 1, 4)[:, None]))
    for method in (data_mixing_laws, regmix):
        with pytest.raises(InputError, match=r"300M to 1\.2B tokens; this method reads runs of one scale"): method(two, 10**9)
    with pytest.raises(InputError, match="all sampled runs have the same mixture"): regmix(replace(evidence, sampled=replace(table, tokens=np.full((80, 5), 1e6))), 10**9, linear=True)
    with pytest.raises(InputError, match="9 sampled runs"): regmix(evidence_from(lambda w: w[:, 0], count=9), 10**9)
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # as where it is not installed
    with pytest.raises(InputError, match="pip install lightgbm"): regmix(evidence, 10**9)


# DoReMi

@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=8), st.integers(0, 1000), st.floats(0, 3), st.floats(0, .1))
@careful
def test_a_step_of_doremi_keeps_the_weights_on_the_simplex_and_follows_the_excess(weights, seed, step_size, smoothing):
    weights = np.array(weights) / np.sum(weights); excess = np.random.default_rng(seed).exponential(size=len(weights))
    moved = doremi_update(weights, excess, step_size, smoothing)
    by_hand = [w * np.exp(step_size * e) for w, e in zip(weights, excess)]
    assert moved == pytest.approx([(1 - smoothing) * w / sum(by_hand) + smoothing / len(weights) for w in by_hand], abs=1e-12)
    assert abs(moved.sum() - 1) < 1e-12 and (moved >= smoothing / len(weights) - 1e-15).all()
    assert doremi_update(weights, np.full(len(weights), 2.), step_size, 0.) == pytest.approx(weights, abs=1e-12)


class Table(torch.nn.Module):
    "A 'model' whose nats of a token are a number for each token: what GroupDRO asks of a model, without a network."
    def __init__(self, nats): super().__init__(); self.nats = torch.nn.Parameter(torch.tensor(nats))


def rule(reference, domains="abc", **state): return GroupDRO(Table(reference), lambda model, rows: model.nats[rows], tuple(domains), 1., 1e-4, state)


def test_one_step_of_group_dro_is_what_one_computes_by_hand():
    "Tokens 0 to 3 cost the proxy 2, 1, 4, 1 and the reference 1, 3, 1, 1. Two rows of domain a, one of b, none of c, one of filling."
    dro, proxy = rule([1., 3., 1., 1.]), Table([2., 1., 4., 1.])
    rows = torch.tensor([[0, 1], [0, 0], [2, 3], [3, 3]])
    found = dro(proxy, rows, np.array([0, 0, 1]))
    excess = np.array([(1 + 0 + 1 + 1) / 4, (3 + 0) / 2, 0])  # token 1 is better than the reference: 0, not -2
    excess[2] = (.75 + 1.5) / 2  # a domain not seen yet: the mean of those that were
    moved = np.exp(excess) / np.exp(excess).sum(); alpha = (1 - 1e-4) * moved + 1e-4 / 3
    share = np.array([alpha[0], alpha[0], alpha[1]]); share *= 3 / share.sum()
    assert found.tolist() == pytest.approx([3 * share[0], 4 * share[1], 5 * share[2], 0], rel=1e-6)
    assert list(dro.report()["weights"].values()) == pytest.approx(alpha, abs=1e-12) == list(dro.report()["average"].values())
    found.sum().backward()
    assert proxy.nats.grad.tolist() == pytest.approx([3 * share[0], share[1], share[2], share[2]], rel=1e-6) and dro.reference.nats.grad is None
    dro(proxy, rows[2:3], np.array([1]))
    assert dro.state["excess"] == pytest.approx([.75, 1.5, 1.125]), "a domain that is missing in a batch keeps its last excess"
    assert dro.state["updates"] == 2 and sum(dro.report()["average"].values()) == pytest.approx(1)


def test_weight_goes_to_the_domain_that_lags_behind():
    dro, proxy, before = rule([1., 1., 1.]), Table([1., 1.5, .5]), 1 / 3
    for _ in range(30):
        dro(proxy, torch.tensor([[0], [1], [2]]), np.array([0, 1, 2]))
        assert dro.state["weights"][1] > before - 1e-3; before = dro.state["weights"][1]
    assert before > .999 and dro.report()["average"]["b"] > .8 and dro.state["weights"][0] == pytest.approx(dro.state["weights"][2])


@pytest.fixture(scope="module")
def searched(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("doremi")
    settings = {"model": {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}, "optimiser": {}, "context": 64, "batch": 8, "precision": "fp32", "evaluation_sequences": 4}
    runs, threads = RunStore(folder / "runs"), torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other when others are busy
    yield folder, settings, runs, doremi(store, runs, settings, 120 * 64, [0, 1], folder / "references", step_size=20.)
    torch.set_num_threads(threads)


def test_doremi_trains_two_rounds_and_is_read_from_its_records_afterwards(store, searched, tmp_path):
    _, settings, runs, found = searched
    by_name = {r.name: r for r in runs}
    assert set(by_name) == {f"DoReMi {what} {turn}, seed {seed}" for what in ("reference", "proxy") for turn in (1, 2) for seed in (0, 1)}
    params = next(iter(runs)).params
    assert found.cost == Cost(8, 8 * 120 * 64, 4 * 14. * params * 120 * 64)
    first, last = (np.array([list(by_name[f"DoReMi proxy {turn}, seed {s}"].curve[-1]["average"].values()) for s in (0, 1)]).mean(0) for turn in (1, 2))
    assert found.mixture.weights == pytest.approx(last, abs=64 / found.mixture.total)
    assert by_name["DoReMi reference 2, seed 0"].spec.mixture == Mixture.from_weights(store.domains, first, 120 * 64, 64)
    assert by_name["DoReMi proxy 2, seed 0"].spec.mixture == Mixture.uniform(store.domains, 120 * 64, 64), "the proxy sees all domains equally often"
    assert doremi(store, runs, settings, 120 * 64, [0, 1], tmp_path / "none", step_size=20.) == found and not (tmp_path / "none").exists()


def test_a_proxy_that_is_killed_ends_in_the_same_weights(store, searched, tmp_path):
    folder, _, runs, _ = searched
    [record] = [r for r in runs if r.name == "DoReMi proxy 1, seed 1"]
    class Killed(Exception): pass
    def kill(at):
        if at["step"] >= 7: raise Killed
    rule = functools.partial(group_dro, folder=folder / "references")
    with pytest.raises(Killed): train(record.spec, store, checkpoint=tmp_path / "c", checkpoint_seconds=0, report=kill, reweight=rule)
    again = train(record.spec, store, checkpoint=tmp_path / "c", reweight=rule)
    assert (again.curve, again.losses) == (record.curve, record.losses) and len(record.curve) == 15


def test_a_rule_is_part_of_the_specification_and_never_left_out(store, searched, tmp_path):
    folder, _, runs, _ = searched
    [record] = [r for r in runs if r.name == "DoReMi proxy 1, seed 0"]; spec = record.spec
    plain = replace(spec, reweight=None)
    assert RunSpec.from_dict(spec.to_dict()) == spec and spec.hash != plain.hash and "reweight" not in plain.to_dict()
    with pytest.raises(InputError, match="weighs its sequences by a rule"): train(spec, store)
    with pytest.raises(InputError, match="weighs its sequences by a rule"): sweep([("proxy", spec)], store, RunStore(tmp_path))
    rule = functools.partial(group_dro, folder=folder / "references")
    with pytest.raises(InputError, match="without a micro-batch"): train(spec, store, micro_batch=4, reweight=rule)
    with pytest.raises(InputError, match="train it alone"): train_together([("a", spec), ("b", spec)], store, reweight=rule)
    with pytest.raises(InputError, match="rule 'magic' is not known"): train(replace(spec, reweight={"rule": "magic"}), store, reweight=rule)
    with pytest.raises(InputError, match="no such run record"): train(replace(spec, reweight={**spec.reweight, "reference": "0" * 16}), store, reweight=rule)


def test_choosing_needs_no_torch_and_no_lightgbm():
    code = "import sys, autoscale.baselines as b; b.unimax({'a': 9, 'b': 9}, 9); print([m for m in ('torch', 'transformers', 'lightgbm', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
