"""Stage 2: Theorems 1 and 2 as mathematics, and the published projections to their digits."""
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from autoscale.ddo import find_designs, fit_ddo, minimise_power
from autoscale.mixture import InputError, Mixture
from autoscale.projection import fit_path, path, project, project_runs, skills_optimum
from autoscale.published import published_compositions, published_runs
from autoscale.runs import sample_run_table

quiet = settings(deadline=None, derandomize=True, max_examples=100)
PUBLISHED = published_compositions()
SMALL, MIDDLE, LARGE = (PUBLISHED[f"DDO at {s}B"] for s in (0.3, 0.6, 1.2))


# ---- the published numbers

@pytest.mark.parametrize("k, name, total", [(1, "projected, k=1", 5.000487243200733), (2, "projected, k=2", 21.38933448443632), (3, "projected, k=3", 93.22814586841008),
                                            (4, "projected, k=4", 412.44002730550164), (-.5, "projected, k=-1/2", .5961154447891214)])
def test_published_steps(k, name, total):
    ours = path([SMALL, LARGE], k) / 1e9
    assert ours.sum() == pytest.approx(total, abs=1e-8, rel=0)
    assert ours == pytest.approx(PUBLISHED[name].to_numpy() / 1e9, abs=1e-8, rel=0)


@pytest.mark.parametrize("target", [300_000_000, 1_200_000_000, 10**10, 300 * 10**9, 10**13, 123_456_789_123])
def test_exactly_the_target(target):
    p = project([SMALL, LARGE], target)
    assert p.mixture.total == target and p.residual == 0
    assert np.abs(np.array(p.mixture.tokens) - p.tokens).max() <= 1
    assert path([SMALL, LARGE], p.k) == pytest.approx(p.tokens, rel=1e-12)


def test_whole_steps_are_found_again_and_the_ends_are_the_scales():
    for k in (-1, -.5, 0, 1, 2, 3, 4):
        assert project([SMALL, LARGE], round(path([SMALL, LARGE], k).sum())).k == pytest.approx(k, abs=1e-8)
    assert project([LARGE, SMALL], 300_000_000).tokens == pytest.approx(SMALL.to_numpy(), rel=1e-7)  # the order of the scales is no matter


def test_continuous_in_the_target():
    for n in (4 * 10**8, 1_200_000_000, 10**10, 3 * 10**11):
        near, there = project([SMALL, LARGE], n + n // 10**6), project([SMALL, LARGE], n)
        assert near.tokens == pytest.approx(there.tokens, rel=2e-6)


def test_a_target_below_the_smaller_scale_is_refused():
    with pytest.raises(InputError, match="100M tokens is below the smallest scale, 300M"): project([SMALL, LARGE], 10**8)


def test_both_paths_of_the_offset_at_300_billion():
    law = fit_ddo(find_designs(published_runs())[0], "perplexity")
    target = 300 * 10**9
    assert project([SMALL, LARGE], target).weights[1] == pytest.approx(.02, abs=5e-3)
    assert law.optimum(target).tokens[1] / target == pytest.approx(.15, abs=5e-3)
    for k, scale in ((-1, SMALL), (0, LARGE)): assert path([SMALL, LARGE], k, law.offsets) == pytest.approx(scale.to_numpy(), rel=1e-9)
    optima = [law.optimum(n * 10**9).tokens for n in (12, 50, 300)]
    assert project(optima[:2], target, offsets=law.offsets).tokens == pytest.approx(optima[2], rel=1e-9)


# ---- Theorem 1

@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.integers(2, 64), st.integers(0, 10**6), st.floats(6, 12), st.floats(.05, .9), st.floats(.05, 1), st.sampled_from([(.01, 5), (.01, .02), (.3, .6), (4.9, 5)]))
def test_theorem_1(m, seed, exponent, first, second, gammas):
    random = np.random.default_rng(seed)
    log_beta, gamma = random.normal(0, 5, m), random.uniform(*gammas, m)
    budgets = [10**exponent, 10**(exponent + first * (13 - exponent)), 10**(exponent + (first + second * (1 - first)) * (13 - exponent))]
    a, b, c = (minimise_power(log_beta, 0, gamma, round(n)).x for n in budgets)
    assume(min(a.min(), b.min()) > 1e-200)
    p = project([a, b], round(budgets[2]))
    # log tokens carry an absolute error of about 1e-14 (rounding of the price), multiplied by the reach 1 + 2k
    assert np.log(p.tokens / c) == pytest.approx(np.zeros(m), abs=1e-12 * (1 + 2 * p.k))
    between = project([a, c], round(budgets[1]))
    assert -1 <= between.k <= 0 and np.log(between.tokens / b) == pytest.approx(np.zeros(m), abs=1e-11)


@quiet
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_bounds_on_the_target_send_tokens_where_the_optimality_conditions_do(m, seed):
    random = np.random.default_rng(seed)
    log_beta, gamma = random.normal(0, 2, m), random.uniform(.1, 3, m)
    a, b = (minimise_power(log_beta, 0, gamma, n).x for n in (1e8, 1e9))
    floor, cap = random.uniform(0, .9 / m, m), np.minimum(random.uniform(1.2, 4, m) / m, 1)
    if cap.sum() < 1: return
    n = 10**11
    p = project([a, b], n, floor, cap)
    best = minimise_power(log_beta, 0, gamma, n, floor * n, cap * n)
    assert p.tokens / n == pytest.approx(best.x / n, abs=1e-11, rel=0)


# ---- what the theorem does not cover

def test_domains_at_zero():
    p = project([[10., 20, 0, 4, 0], [30, 60, 5, 0, 0]], 950, domains="abcde")
    assert p.weights[2] == pytest.approx(5 / 95) and list(p.weights[3:]) == [0, 0] and p.mixture.total == 950
    assert [n[:2] for n in p.notes] == ["c:", "d:", "e:"] and "no path" in p.notes[0] and "at any scale" in p.notes[2]


def test_falling_tokens_and_bounds_are_named():
    p = project([[5., 10], [4, 20]], 40, at_bound=("domain 1",))
    assert "domain 0: its tokens fall from 5 at 15 to 4 at 24" in p.notes[0] and "domain 1: at a floor or cap" in p.notes[1]


def test_floors_caps_and_their_notes():
    p = project([SMALL, LARGE], 300 * 10**9, floor=.03, cap=.4)
    assert (p.weights >= .03 - 1e-15).all() and p.weights.max() == pytest.approx(.4, abs=1e-15) and p.mixture.total == 300 * 10**9
    free = (p.weights > .0301) & (p.weights < .3999)
    assert (np.log(p.tokens / LARGE) / np.log(LARGE / SMALL))[free].to_numpy() == pytest.approx([p.k] * free.sum(), rel=1e-9)
    assert sum("held at the target's" in n for n in p.notes) == 3
    with pytest.raises(InputError, match=r"1\.4"): project([SMALL, LARGE], 10**10, floor=.2)
    with pytest.raises(InputError, match=r"0\.7"): project([SMALL, LARGE], 10**10, cap=.1)


def test_where_the_path_cannot_reach_the_rest_goes_to_the_nearest_weights():
    p = project([[10., 50], [40, 45]], 10_000, cap=[.5, .9], domains="ab")
    assert p.weights == pytest.approx([.5, .5]) and any("no point of the path" in n for n in p.notes)


def test_mixtures_and_order_of_domains():
    a, b = Mixture(("x", "y"), (100, 200)), Mixture(("y", "x"), (900, 300))
    assert project([a, b], 4000).mixture.domains == ("x", "y")
    assert project([a, b], 4000).tokens == pytest.approx(project([[100, 200], [300, 900]], 4000).tokens)
    with pytest.raises(InputError, match="different domains"): project([a, Mixture(("x", "z"), (1, 900))], 4000)
    with pytest.raises(InputError, match="two scales"): project([a], 4000)
    with pytest.raises(InputError, match="same total"): project([[1., 2], [2, 1]], 4000)


# ---- more than two scales

@quiet
@given(st.integers(2, 10), st.integers(0, 10**6), st.lists(st.floats(.05, 2), min_size=1, max_size=4))
def test_scales_on_one_line_give_the_two_scale_answer(m, seed, gaps):
    random = np.random.default_rng(seed)
    a = random.lognormal(15, 1, m); b = a * random.uniform(1.1, 10, m)
    ks = -1 + np.cumsum(gaps) / sum(gaps)
    line = fit_path([a, *(path([a, b], k) for k in ks[:-1]), b])
    assert line.coordinates == pytest.approx([-1, *ks], abs=1e-9) and line.residual < 1e-12
    assert line(3.) == pytest.approx(path([a, b], 3.), rel=1e-10)


def test_three_published_scales_report_their_residual():
    p = project([SMALL, MIDDLE, LARGE], 300 * 10**9)
    # the rank-one residual, from the singular values of the centred logs
    x = np.log([SMALL, MIDDLE, LARGE])
    assert p.residual == pytest.approx(math.sqrt((np.linalg.svd(x - x.mean(0))[1][1:] ** 2).sum() / x.size), rel=1e-9)
    assert any(f"3 scales lie off one line by {p.residual:.3g}" in n for n in p.notes) and p.mixture.total == 300 * 10**9


# ---- Theorem 2

@quiet
@given(st.integers(2, 8), st.integers(0, 10**6))
def test_theorem_2_where_it_holds(m, seed):
    random = np.random.default_rng(seed)
    c = np.eye(m) + random.uniform(0, .3 / m, (m, m))
    gamma = random.uniform(.2, 1.5, m)
    log_beta = gamma * math.log(1e9) + random.normal(0, .2, m)
    o = skills_optimum(c, log_beta, gamma, 1e9)
    assume(o.outcome == "exact")
    assert o.prices == pytest.approx(np.linalg.inv(c).T.sum(1)) and o.gap < 1e-12
    assert o.prices @ o.skills == pytest.approx(1e9, rel=1e-12) and o.tokens.sum() == pytest.approx(1e9, rel=1e-12) and c @ o.tokens == pytest.approx(o.skills)


@quiet
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_every_optimum_has_its_certificate(s, m, seed):
    random = np.random.default_rng(seed)
    c = random.uniform(0, 1, (s, m)) * (random.random((s, m)) < .7)
    assume(c.any(1).all())
    gamma = random.uniform(.1, 2, s); log_beta = gamma * math.log(1e9) + random.normal(0, 1, s)
    o = skills_optimum(c, log_beta, gamma, 1e9)
    assert o.gap < 1e-10 and (o.tokens >= 0).all() and o.tokens.sum() == pytest.approx(1e9, rel=1e-12)
    loss = lambda n: np.exp(log_beta - gamma * np.log(c @ n)).sum()
    for n in random.dirichlet(np.ones(m), 20) * 1e9: assert loss(o.tokens) <= loss(n) * (1 + 1e-10) if (c @ n > 0).all() else True


def test_the_outcomes_of_theorem_2():
    gamma = np.array([.3, .5]); log_beta = gamma * math.log(1e9)
    solve = lambda c: skills_optimum(c, log_beta, gamma, 1e9)
    assert solve([[1, .3], [.2, 1]]).outcome == "exact"
    bound = solve([[1, 3], [.1, 1]])
    assert bound.outcome == "bound" and bound.prices == pytest.approx([9/7, -20/7]) and bound.tokens == pytest.approx([0, 1e9], abs=1)
    negative = solve([[1, .7], [.01, .9]])  # positive prices, but the free solution takes tokens from domain 0
    assert negative.outcome in ("exact", "bound") and (negative.tokens >= 0).all()
    twins = solve([[1, 1, .2], [.3, .3, 1]])
    assert twins.outcome == "not unique" and twins.prices is None
    shifted = twins.tokens + np.array([1e8, -1e8, 0])
    assert np.array([[1, 1, .2], [.3, .3, 1]]) @ shifted == pytest.approx(twins.skills)  # another mixture, the same skills
    three = skills_optimum([[1, .2], [.3, 1], [.6, .5]], np.zeros(3), np.ones(3), 1e9)
    assert three.outcome == "out of reach" and "3 skills from 2" in three.note
    with pytest.raises(InputError, match="skill 1 is taught by no domain"): solve([[1, 1], [0, 0]])
    with pytest.raises(InputError, match="rate >= 0"): solve([[1, -1], [0, 1]])


def test_a_projection_far_from_the_runs_says_so():
    _, far_out = project_runs(sample_run_table(), 10**11, floor=.2 / 6)
    news = far_out.weights[far_out.mixture.domains.index("news")]
    assert f"news: weight {news:.3g}, while no run had more than 0.375; a run with more of it would tell" in far_out.notes
    assert any("254,000 times the largest run" in n for n in far_out.notes) and "the paper's projection gives no interval and predicts no loss; law joint does both" in far_out.notes
    _, near = project_runs(sample_run_table(), 300_000, floor=.2 / 6)
    assert not any("times the largest run" in n or "while no run" in n for n in near.notes)
