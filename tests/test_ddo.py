"""Stage 1: designs, fits, and the exact solver, against the published numbers and as mathematics."""
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from autoscale.ddo import (change_errors, exact_power_laws, find_designs, fit_ddo, fit_power_law, minimise_power, noise, objective_values, optima_by_seed,
                           seed_spread)
from autoscale.mixture import InputError
from autoscale.published import published_compositions, published_read_off, published_runs
from autoscale.runs import RunTable

quiet = settings(deadline=None, derandomize=True, max_examples=60)

FIT = {  # Kang et al. 2025, DDO notebook: (N0, gamma, ell)
    "common_crawl": (2.665873, 1.249202, 0.802654), "github": (6.616176, 1.436001, 0.945822), "books": (2.673603, 1.536260, 0.864521),
    "wiki": (2.463107, 1.828731, 0.896852), "c4": (2.518384, 1.185872, 0.775039), "stackexchange": (2.889958, 1.953628, 0.929617),
    "arxiv": (3.319174, 1.926671, 0.940325)}
OPTIMUM = (1.62475352, 0.2, 1.27415166, 1.17979573, 1.8518998, 0.63716376, 0.23223551)  # units of the uniform share


def table_of(tokens, losses, names=None, **columns):
    tokens, losses = np.asarray(tokens, float), np.asarray(losses, float)
    domains = tuple("abcdefghij"[:tokens.shape[1]])
    return RunTable(tuple(names or (f"run {i}" for i in range(len(tokens)))), domains, tuple(f"v{j}" for j in range(losses.shape[1])), tokens, losses, **columns)


def design_tokens(base, factors=(1/3, 3)):
    rows = [list(base)]
    for i in range(len(base)):
        for f in factors: rows.append([n * (f if j == i else 1) for j, n in enumerate(base)])
    return rows


# ---- the published matrix

def test_published_fit_and_optimum():
    [design] = find_designs(published_runs())
    law = fit_ddo(design, "perplexity")
    for domain, numbers in FIT.items():
        fitted = law.laws[domain]
        assert (fitted.n0, fitted.gamma, fitted.ell) == pytest.approx(numbers, abs=1e-5, rel=0)
    best = law.optimum(floor=.2/7)
    assert best.units == pytest.approx(OPTIMUM, abs=1e-6, rel=0)
    assert best.kkt < 1e-10
    assert best.mixture.total == 1_200_000_000 and best.units.sum() == pytest.approx(7, abs=1e-12)
    assert best.at_floor == ("github",) and best.at_cap == () and best.notes == () and law.problems == {}


@pytest.mark.parametrize("reduced, objective, row", [
    (1/5, "perplexity", (1.624754, 0.2, 1.274152, 1.179796, 1.851900, 0.637164, 0.232236)),
    (1/3, "perplexity", (1.5010, 0.2, 1.2467, 1.1768, 1.6660, 0.7575, 0.4521)),
    (1/5, "nats", (1.1730, 0.6069, 0.7651, 1.1951, 1.3516, 1.0857, 0.8227)),
    (1/3, "nats", (1.1206, 0.7066, 0.8317, 1.1529, 1.2471, 1.0697, 0.8714))])
def test_every_convention_of_the_published_table(reduced, objective, row):
    [design] = find_designs(published_runs(reduced))
    digits = 6 if row[0] == 1.624754 else 4
    assert fit_ddo(design, objective).optimum(floor=.2/7).units == pytest.approx(row, abs=.51 * 10**-digits, rel=0)


def test_published_numbers_load():
    table = published_runs()
    assert len(table) == 15 and table.tokens[0].sum() == pytest.approx(1.2e9)
    assert np.exp(table.losses[0]) == pytest.approx([38.43918768, 6.810644431, 39.42194489, 26.29195806, 52.70910489, 17.20930668, 15.91400852], abs=1e-8)
    compositions = published_compositions()
    assert compositions["projected, k=4"].sum() == pytest.approx(412.44002730550164e9, abs=50)
    assert set(published_read_off().error) == {.005, .1, .5}
    with pytest.raises(InputError, match="1/3"): published_runs(3.)


# ---- designs

@quiet
@given(st.integers(2, 6), st.randoms(use_true_random=False), st.sampled_from([(1/3, 3), (.2, 3), (.1, .5, 2, 9)]))
def test_a_design_is_found_wherever_its_rows_stand(m, random, factors):
    base = [random.randint(10**4, 10**6) for _ in range(m)]
    tokens = design_tokens(base, factors)
    noise = np.random.default_rng(random.randint(0, 99)).lognormal(20, 1, (20, m))  # more of everything than any run of the design: none of them can be one by chance
    losses = np.arange(len(tokens) + 20)[:, None] + np.ones((1, 3))
    order = list(range(len(tokens) + 20)); random.shuffle(order)
    design, = find_designs(table_of(np.concatenate([tokens, noise])[order], losses[order]))
    assert design.base_tokens == pytest.approx(base) and len(design.ignored) == 20
    for i, points in enumerate(design.points.values()):
        assert points.amounts == pytest.approx(sorted([1, *factors]))
        assert points.losses[list(points.amounts).index(1)][0] == 1  # the base run's loss
        assert sorted(points.losses[:, 0] - 1) == [0, *(1 + i * len(factors) + f for f in range(len(factors)))]


def test_rounding_to_whole_sequences_does_not_hide_a_design():
    tokens = np.array(design_tokens([200_000, 300_000, 400_000]))
    tokens[1:] *= 1 + np.random.default_rng(0).uniform(-4e-4, 4e-4, tokens[1:].shape)
    design, = find_designs(table_of(tokens, np.ones((7, 1))))
    assert design.points["a"].amounts == pytest.approx([1/3, 1, 3], rel=2e-3)


def test_repeats_are_averaged_and_counted():
    tokens = design_tokens([1e5, 1e5])
    first, second = np.arange(5.)[:, None] + 2, np.arange(5.)[:, None] + 2.4
    design, = find_designs(table_of(tokens + tokens, np.concatenate([first, second])))
    points = design.points["b"]
    assert list(points.repeats) == [2, 2, 2] and points.sd == pytest.approx(.4 / math.sqrt(2)) and design.base_losses == pytest.approx(2.2)
    assert points.runs == (("run 3", "run 8"), ("run 0", "run 5"), ("run 4", "run 9"))
    single, = find_designs(table_of(tokens, first))
    assert np.isnan(single.points["a"].sd).all() and list(single.points["a"].repeats) == [1, 1, 1]


# ---- noise

def repeated(losses, seeds=None):
    "A two-domain design with its five mixtures repeated; losses (repeats, 5), the base run's first."
    tokens, losses = np.tile(design_tokens([1e5, 1e5]), (len(losses), 1)), np.asarray(losses, float)
    return find_designs(table_of(tokens, np.stack([losses.ravel(), 2 * losses.ravel()], 1), seed=None if seeds is None else np.repeat(seeds, 5)))[0]


def test_noise_is_the_pooled_standard_deviation():
    losses = np.random.default_rng(0).normal(3, .1, (4, 5))
    sd, freedom = noise(repeated(losses))
    assert sd == pytest.approx(np.sqrt(losses.var(0, ddof=1).mean()) * np.array([1, 2])) and freedom == 15
    assert noise(repeated(losses), lambda l: l.mean(-1))[0] == pytest.approx(1.5 * np.sqrt(losses.var(0, ddof=1).mean()))
    uneven, = find_designs(table_of([*design_tokens([1e5, 1e5]), [1e5, 1e5], [1e5, 1e5], [3e5, 1e5]], np.array([[1.], [2], [3], [4], [5], [1.2], [1.4], [3.4]])))
    assert noise(uneven)[0] == pytest.approx(math.sqrt((.08 + .08) / 3)) and noise(uneven)[1] == 3
    errors = change_errors(uneven)  # base 3 runs, a x3 twice, the others once
    assert errors["a"][:, 0] == pytest.approx(noise(uneven)[0] * np.sqrt([1 + 1/3, 0, 1/2 + 1/3]))
    assert noise(repeated(losses[:1])) == (None, 0) and change_errors(repeated(losses[:1])) is None


def test_what_a_seed_does_to_all_its_runs_cancels_in_a_change():
    random = np.random.default_rng(1)
    losses = 3 + np.array([[-.1], [0], [.1]]) + random.normal(0, .001, (3, 5))
    paired, unpaired = change_errors(repeated(losses, [4, 5, 6])), change_errors(repeated(losses))
    by_hand = np.sqrt(np.mean([np.subtract(losses[:, i], losses[:, j]).var(ddof=1) for i in range(5) for j in range(i)]) / 3)
    assert paired["a"] == pytest.approx(by_hand * np.array([[1, 2], [0, 0], [1, 2]]))
    assert unpaired["b"] == pytest.approx(np.sqrt(losses.var(0, ddof=1).mean() * 2 / 3) * np.array([[1, 2], [0, 0], [1, 2]]))
    assert (paired["a"][[0, 2]] < unpaired["a"][[0, 2]] / 20).all()


@quiet
@given(st.integers(2, 5), st.integers(0, 10**6))
def test_each_seed_is_a_design_of_its_own(seeds, seed):
    losses = np.random.default_rng(seed).normal(3, .3, (seeds, 5))
    design = repeated(losses, range(seeds))
    assert list(design.by_seed) == list(range(seeds))
    for s, one in design.by_seed.items():
        assert one.base_losses[0] == losses[s, 0] and one.points["b"].losses[:, 0].tolist() == losses[s, [3, 0, 4]].tolist() and one.points["b"].runs == ((f"run {5*s + 3}",), (f"run {5*s}",), (f"run {5*s + 4}",))
    alone = optima_by_seed(design, floor=.1)
    single = [fit_ddo(repeated(losses[s:s + 1])).optimum(floor=.1) for s in range(seeds)]
    assert [o.mixture for o in alone.values()] == [o.mixture for o in single]
    assert seed_spread(o.mixture for o in single) == pytest.approx(np.std([o.mixture.weights for o in single], axis=0, ddof=1))


@pytest.mark.parametrize("seeds", [None, [0] * 5 + [0] * 5, [0] * 5 + [1] * 4 + [2]])
def test_runs_without_the_same_seeds_are_not_paired(seeds):
    losses = np.random.default_rng(0).normal(3, .1, (10, 1))
    design, = find_designs(table_of(design_tokens([1e5, 1e5]) * 2, losses, seed=seeds and np.array(seeds)))
    assert design.by_seed == {} and optima_by_seed(design) == {} and seed_spread([]) is None
    assert change_errors(design)["a"][0] == pytest.approx(noise(design)[0])  # sqrt(1/2 + 1/2)


@pytest.mark.parametrize("objective", ["nats", "perplexity"])
def test_a_law_knows_the_standard_error_of_its_points(objective):
    losses = 3 - np.array([0, -.2, .2, -.1, .1]) + np.random.default_rng(2).normal(0, .01, (3, 5))
    value = (lambda l: 1.5 * l) if objective == "nats" else (lambda l: (np.exp(l) + np.exp(2 * l)) / 2)
    law, y, base = fit_ddo(repeated(losses, [0, 1, 2]), objective), value(losses), value(losses.mean(0)[0])
    pairs = [np.subtract(y[:, i], y[:, j]).var(ddof=1) for i in range(5) for j in range(i)]  # a change between any two mixtures, seed by seed
    assert law.errors["a"] == pytest.approx(np.sqrt(np.mean(pairs) / 3) / base * np.array([1, 0, 1]))
    assert fit_ddo(repeated(losses[:1]), objective).errors is None


def test_models_of_different_size_do_not_mix_and_scales_are_sorted():
    small, large = design_tokens([1e5, 2e5]), design_tokens([1e6, 2e6])
    designs = find_designs(table_of(large + small + small, np.ones((15, 1)), params=np.repeat([50, 50, 10], 5)))
    assert [(d.total, d.params) for d in designs] == [(300_000, 10), (300_000, 50), (3_000_000, 50)]
    with pytest.raises(InputError, match="no DDO design"):
        find_designs(table_of(small, np.ones((5, 1)), params=np.array([1, 1, 2, 1, 1])))


def test_what_is_missing_is_said():
    tokens, names = design_tokens([1e5, 2e5, 3e5]), ["base", "a-", "a+", "b-", "b+", "c-", "c+"]
    with pytest.raises(InputError, match=r"Closest is 'base' with 600k tokens; it lacks runs for b \(1 of 2\), c \(1 of 2\)"):
        find_designs(table_of([tokens[i] for i in (2, 0, 1, 3, 6)], np.ones((5, 1)), [names[i] for i in (2, 0, 1, 3, 6)]))
    with pytest.raises(InputError, match="at least two"): find_designs(table_of([[1e5], [2e5]], np.ones((2, 1))))


def test_thousands_of_runs_among_which_a_design_hides():
    random = np.random.default_rng(0)
    crowd = random.lognormal(15, 1, (5000, 7))
    design, = find_designs(table_of(np.concatenate([crowd, design_tokens([1e6] * 7)]), np.ones((5015, 2))))
    assert design.total == 7_000_000 and len(design.ignored) == 5000


def test_what_is_odd_about_the_table_is_said_with_the_weights():
    table = published_runs()
    stray = replace(table, runs=(*table.runs, "stray"), tokens=np.vstack([table.tokens, table.tokens[0] * 2]),
                    losses=np.vstack([table.losses, table.losses[0]]))
    [design] = find_designs(stray)
    assert design.ignored == ("stray",)
    assert fit_ddo(design).optimum().notes == ("1 of the table's runs belong to no design and are ignored: stray",)
    unjudged = replace(table, validation=table.validation[1:], losses=table.losses[:, 1:])
    [note] = fit_ddo(find_designs(unjudged)[0]).optimum().notes
    assert note.startswith("common_crawl: trained on and not judged") and "mean over github, books" in note
    untrained = replace(table, validation=(*table.validation, "new"), losses=np.hstack([table.losses, table.losses[:, :1]]))
    assert fit_ddo(find_designs(untrained)[0]).optimum().notes == ("new: judged and not trained on, there is no tokens.new",)
    elsewhere = replace(table, validation=tuple(f"task {v}" for v in table.validation))
    assert fit_ddo(find_designs(elsewhere)[0]).optimum().notes == ()
    perplexities = replace(table, losses=np.exp(table.losses))
    assert fit_ddo(find_designs(perplexities)[0]).optimum().notes[0].startswith("the losses look like perplexities (median 26.29")


# ---- the fit

@quiet
@given(st.floats(.01, 60), st.floats(.02, 4), st.floats(0, 1), st.sampled_from([1/3, 1/5, .5]), st.sampled_from([2., 3., 10.]))
def test_exact_points_are_interpolated(n0, gamma, ell, reduced, more):
    x = np.array([reduced, 1, more])
    y = (n0 + x) ** -gamma + ell
    if y[1] - y[2] < 1e-6: return  # less than rounding of the losses can resolve
    law = fit_power_law(x, y)
    assert law(x) == pytest.approx(y, abs=1e-10, rel=0)
    laws = exact_power_laws(x, y)
    assert len(laws) <= 2
    for n, g, l in laws: assert (n + x) ** -g + l == pytest.approx(y, abs=1e-12, rel=0)
    if laws: assert (law.n0, law.gamma, law.ell) == laws[-1]  # the one with the larger N0


@quiet
@given(st.floats(.3, 10), st.floats(.3, 3), st.floats(0, 1))
def test_five_exact_points_give_the_law_back(n0, gamma, ell):
    x = np.array([1/9, 1/3, 1, 3, 9])
    law = fit_power_law(x, (n0 + x) ** -gamma + ell)
    assert (law.n0, law.gamma, law.ell) == pytest.approx((n0, gamma, ell), rel=1e-6)
    assert law.problem == ""


@quiet
@given(st.lists(st.floats(.5, 1.5), min_size=3, max_size=5))
def test_any_points_give_a_law_that_no_grid_point_beats(y):
    x = np.array([1/9, 1/3, 1, 3, 9])[-len(y):]
    law = fit_power_law(x, y)
    assert law.n0 >= 0 and law.gamma > 0 and math.isfinite(law.ell)
    assert law.flat == (y[-1] >= y[0])
    if law.flat: assert law.problem.endswith("goes to its floor"); return
    n0, gamma = np.meshgrid(np.geomspace(1e-3, 100, 80), np.geomspace(1e-3, 100, 80))
    f = (n0[..., None] + x) ** -gamma[..., None]
    misfit = f - f.mean(-1, keepdims=True) - (np.array(y) - np.mean(y))
    assert law.residual <= np.sqrt((misfit ** 2).mean(-1)).min() + 1e-9


@pytest.mark.parametrize("y, sentence", [
    ([1.03, 1, 1.01], "more data made the loss worse"), ([.99, 1, .95], "less data made the loss better"), ([1.01, 1, .95], "not convex"),
    ([2.5, 1, .3], "too large for any law"), ([1.0, 1.01, 1.02], "no marginal value and goes to its floor"), ([1., 1., 1.], "goes to its floor")])
def test_a_fit_that_cannot_be_trusted_is_named_with_its_losses(y, sentence):
    law = fit_power_law([1/3, 1, 3], y)
    assert sentence in law.problem
    for value in y: assert f"{value:.6g}" in law.problem
    assert law.n0 >= 0 and law.gamma > 0


def test_points_that_are_no_points_are_refused():
    with pytest.raises(InputError, match="three different"): fit_power_law([1, 3], [1, .9])
    with pytest.raises(InputError, match="three different"): fit_power_law([1, 1, 3], [1, 1, .9])
    with pytest.raises(InputError, match="finite"): fit_power_law([.3, 1, 3], [1, math.nan, .9])
    with pytest.raises(InputError, match="nats or perplexity"): objective_values([[1.]], [1.], "bits")


# ---- the solver

@st.composite
def problems(draw):
    m = draw(st.integers(1, 40)); random = np.random.default_rng(draw(st.integers(0, 10**6)))
    total = 10.**draw(st.floats(6, 13))
    lower = random.dirichlet(np.ones(m)) * total * draw(st.floats(0, .95))
    upper = lower + (total - lower.sum()) * random.dirichlet(np.ones(m)) * draw(st.floats(1.01, 20))
    log_beta = random.normal(0, draw(st.sampled_from([1., 30.])), m)
    if m > 2 and draw(st.booleans()): log_beta[0] = -np.inf
    offset = random.choice([0., 1., 1e-3 * total, total, 1e12 * total], m) if draw(st.booleans()) else np.zeros(m)
    return dict(log_beta=log_beta, offset=offset, gamma=random.uniform(.01, 5, m), total=total,
                lower=lower if draw(st.booleans()) else 0., upper=upper if draw(st.booleans()) else math.inf)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(problems())
def test_the_solver_satisfies_every_optimality_condition(p):
    s = minimise_power(**p)
    assert abs(math.fsum(s.x) - p["total"]) <= 1e-12 * p["total"]
    lower, upper = np.broadcast_to(p["lower"], s.x.shape), np.broadcast_to(p["upper"], s.x.shape)
    assert (s.x >= lower).all() and (s.x <= upper * (1 + 1e-15)).all()
    assert s.kkt < 1e-10
    # the certificate, recomputed here from scratch
    if s.multiplier > -math.inf:
        some = p["log_beta"] > -np.inf
        assert (s.x[~some] <= lower[~some]).all()
        with np.errstate(divide="ignore"): marginal = (p["log_beta"] + np.log(p["gamma"]))[some] - (p["gamma"][some] + 1) * np.log((p["offset"] + s.x)[some])
        assert (marginal[(s.x > lower)[some]] >= s.multiplier - 1e-10).all() and (marginal[(s.x < upper)[some]] <= s.multiplier + 1e-10).all()


@quiet
@given(problems(), st.integers(0, 10**6))
def test_no_feasible_move_lowers_the_loss(p, seed):
    s = minimise_power(**p)
    random = np.random.default_rng(seed)
    some = p["log_beta"] > -np.inf
    def log_terms(x):
        with np.errstate(divide="ignore"): return p["log_beta"][some] - p["gamma"][some] * np.log((p["offset"] + x)[some])
    ours = log_terms(s.x)
    lower, upper = np.broadcast_to(p["lower"], s.x.shape), np.minimum(np.broadcast_to(p["upper"], s.x.shape), p["total"])
    for _ in range(20):
        i, j = random.integers(len(s.x), size=2)
        step = random.uniform(0, .5) * min(s.x[i] - lower[i], upper[j] - s.x[j])
        if i == j or step <= 0: continue
        moved = s.x.copy(); moved[i] -= step; moved[j] += step
        theirs, top = log_terms(moved), ours.max()
        assert np.exp(theirs - top).sum() >= np.exp(ours - top).sum() * (1 - 1e-11)


def test_ten_thousand_domains():
    random = np.random.default_rng(0)
    m, total = 10_000, 1e13
    s = minimise_power(random.normal(0, 40, m), random.choice([0, 1e6], m), random.uniform(.01, 5, m), total, .1 * total / m, 50 * total / m)
    assert s.kkt < 1e-10 and abs(math.fsum(s.x) - total) <= 1e-12 * total and s.at_lower.any() and s.at_upper.any()


def test_infeasible_and_senseless_problems_are_refused_with_the_numbers():
    with pytest.raises(InputError, match="sum to 12, more than the total of 10"): minimise_power([0, 0], 0, 1, 10, lower=6)
    with pytest.raises(InputError, match="sum to 5, less than the total of 10"): minimise_power([0, 0], 0, 1, 10, upper=[2, 3])
    with pytest.raises(InputError, match="lower bound 3 and upper bound 2"): minimise_power([0, 0], 0, 1, 10, lower=[3, 0], upper=[2, 20])
    with pytest.raises(InputError, match="gamma of domain 1 is 0"): minimise_power([0, 0], 0, [1, 0], 10)
    with pytest.raises(InputError, match="offset of domain 0 is -1"): minimise_power([0, 0], [-1, 0], 1, 10)
    with pytest.raises(InputError, match="log_beta of domain 1 is nan"): minimise_power([0, math.nan], 0, 1, 10)
    with pytest.raises(InputError, match="must be positive"): minimise_power([0, 0], 0, 1, 0)


def test_corners():
    assert minimise_power([0, 5], 0, 1, 10, lower=5).x == pytest.approx([5, 5])
    assert minimise_power([0, 5], 0, 1, 10, upper=5).x == pytest.approx([5, 5])
    assert minimise_power([3.], 0, 2, 7).x == pytest.approx([7])
    spilled = minimise_power([0, -math.inf, -math.inf], 0, 1, 10, lower=[0, 1, 1], upper=[4, 2, 10])
    assert spilled.x == pytest.approx([4, 1.4, 4.6]) and spilled.multiplier == -math.inf
    assert minimise_power([-math.inf] * 4, 0, 1, 8).x == pytest.approx([2] * 4)
    assert minimise_power([0, -math.inf], 0, 1, 8).x == pytest.approx([8, 0])


# ---- the law as a whole

def test_a_base_that_is_not_uniform_and_another_budget():
    truth, base = np.array([[2., 1.2], [.8, 2.], [4., .6]]), np.array([1e6, 4e6, 2e6])
    value = lambda n: sum((n0 + x) ** -g for (n0, g), x in zip(truth, n / base))
    tokens = np.array(design_tokens(base, (1/9, 1/3, 3, 9)))
    law = fit_ddo(find_designs(table_of(tokens, [[value(n)] for n in tokens]))[0])
    best = law.optimum(30_000_000)
    assert best.kkt < 1e-10 and best.mixture.total == 30_000_000
    marginal = law.gamma * (law.n0 + best.tokens / base) ** (-law.gamma - 1) / base
    assert marginal == pytest.approx([math.exp(best.log_price)] * 3, rel=1e-10)


def test_a_flat_domain_goes_to_its_floor_and_is_named():
    table = published_runs()
    losses = table.losses.copy(); losses[table.runs.index("wiki x3")] = losses[table.runs.index("wiki x1/5")] + .01
    law = fit_ddo(find_designs(replace(table, losses=losses))[0])
    best = law.optimum(floor=.05)
    assert best.at_floor == ("wiki",) and list(law.problems) == ["wiki"]
    assert best.notes[0].startswith("wiki: more data made the loss worse") and f"{losses[0].mean():.6g} at 1x" in best.notes[0]
    assert best.mixture.weights[3] == pytest.approx(.05, abs=1e-9) and best.kkt < 1e-10
    capped = law.optimum(cap=[.1, .1, .1, 1, .1, .1, .1])
    assert capped.mixture.weights[3] == pytest.approx(.4) and "at its cap" in capped.notes[-1] and capped.notes[-1].endswith("wiki")
    with pytest.raises(InputError, match=r"1\.4"): law.optimum(floor=.2)


def test_two_domains_at_scales_a_factor_three_apart():
    "The enlarged runs of the one design and the reduced runs of the other line up around mixtures that nobody chose as a base."
    rows = list(dict.fromkeys(tuple(r) for base in ((300_000, 300_000), (900_000, 900_000)) for r in design_tokens(base)))
    losses = [[3 + sum((2 + n / 3e5) ** -.5 for n in row)] * 2 for row in rows]
    designs = find_designs(table_of(rows, losses))
    assert [tuple(d.base_tokens) for d in designs] == [(300_000, 300_000), (900_000, 900_000)]
