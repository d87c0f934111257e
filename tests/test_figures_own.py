"""Figures from our own runs: the noise that repeats reveal is drawn, and the check at a middle scale (figure 8) says what the numbers say."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from autoscale.ddo import fit_ddo, find_designs, optima_by_seed, seed_spread
from autoscale.figures import draw_interactions, draw_laws, draw_weights
from autoscale.mixture import InputError, Mixture, format_tokens, save_mixture
from autoscale.projection import project
from autoscale.reproduce import execute
from autoscale.runs import RunTable, write_run_table
from autoscale.sweep import ddo_design

PAPER = Path(__file__).parents[1] / "nbs/paper"
DOMAINS = ("web", "code", "books")
SMALL, MIDDLE, LARGE = 300_000, 600_000, 1_200_000


def runs_around(totals, seeds=(0, 1, 2), sd=.01):
    "DDO designs of runs that obey a law, off by `sd` nats: each domain is worth a power of its own tokens, and a little of the others'."
    rows = [(name, total, mixture, s) for s in seeds for total in totals for name, mixture in ddo_design(Mixture.uniform(DOMAINS, total))]
    tokens = np.array([x.tokens for _, _, x, _ in rows], float)
    help_ = np.array([[1, .1, .3], [.1, 1, .1], [.2, .1, 1]])
    losses = 2 + 9 * (tokens @ help_.T) ** -np.array([.12, .2, .15]) + np.random.default_rng(7).normal(0, sd, (len(rows), 3))
    return RunTable(tuple(f"{n} @ {format_tokens(t)}, seed {s}" for n, t, _, s in rows), DOMAINS, DOMAINS, tokens, losses, seed=np.array([s for *_, s in rows]))


def fill(folder, outer, middle, floor=.2 / 3):
    "What the stages leave for the figures."
    write_run_table(folder / "stage-2-runs.csv", outer)
    write_run_table(folder / "stage-2b-middle.csv", middle)
    optima = [fit_ddo(d).optimum(floor=floor) for d in find_designs(outer)]
    for o in optima: save_mixture(folder / f"stage-3-ddo-{format_tokens(o.mixture.total)}.json", o.mixture)
    save_mixture(folder / "stage-4-projected.json", project([o.mixture for o in optima], 4 * LARGE).mixture)
    return [o.mixture for o in optima]


def said(executed):
    import nbformat
    return "".join(o.text for c in nbformat.read(executed, 4).cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream")


def figure(name, out, **parameters):
    execute(PAPER / f"{name}.ipynb", out / f"{name}.ipynb", {"out": str(out), **parameters}, show=False)
    return pd.read_csv(out / f"{name}.csv"), said(out / f"{name}.ipynb")


def test_figure_8_from_runs_draws_and_says_what_the_numbers_are(tmp_path):
    outer, middle = runs_around((SMALL, LARGE)), runs_around((MIDDLE,))
    scales = fill(tmp_path, outer, middle)
    frame, text = figure("figure-08", tmp_path)
    [design] = find_designs(middle)
    between, measured = project(scales, MIDDLE).mixture, fit_ddo(design).optimum(floor=.2 / 3).mixture
    assert list(dict.fromkeys(frame.mixture)) == ["interpolated to 600k, from 300k and 1.2M", "DDO at 600k"]
    assert frame.weight.tolist() == [*between.weights, *measured.weights] and set(frame.total_tokens) == {MIDDLE}
    alone = [optima_by_seed(d, "nats", .2 / 3) for d in find_designs(outer)]
    spreads = [seed_spread(project([o[s].tokens for o in alone], MIDDLE).mixture for s in range(3)), seed_spread(o.mixture for o in optima_by_seed(design, "nats", .2 / 3).values())]
    assert frame.sd_between_seeds.to_numpy() == pytest.approx(np.concatenate(spreads), rel=1e-9)
    apart = np.abs(between.weights - measured.weights)
    assert 0 < frame.sd_between_seeds.min() and f"for {(apart <= np.hypot(*spreads)).sum()} of the 3 domains" in text and f"difference is {apart.max():.4f}" in text


def test_figure_8_changes_with_its_parameters_and_draws_no_whiskers_without_repeats(tmp_path):
    fill(tmp_path, runs_around((SMALL, LARGE), (0,)), runs_around((MIDDLE,), (0,)))
    frame, text = figure("figure-08", tmp_path)
    assert "sd_between_seeds" not in frame and "nothing is known about the spread" in text
    other, _ = figure("figure-08", tmp_path, objective="perplexity", floor=1)
    measured = lambda f: f[f.mixture.str.startswith("DDO")].weight.to_numpy()
    assert measured(other) == pytest.approx([1 / 3] * 3) != pytest.approx(measured(frame))  # the floor leaves the uniform mixture only


@pytest.mark.parametrize("middle, says", [(None, "there is no such run table"), ((500_000, 700_000), "holds 2 designs")])
def test_figure_8_without_one_middle_design_is_one_line(tmp_path, middle, says):
    fill(tmp_path, runs_around((SMALL, LARGE), (0,)), runs_around(middle or (MIDDLE,), (0,)))
    if not middle: (tmp_path / "stage-2b-middle.csv").unlink()
    with pytest.raises(InputError, match=rf"figure-08: .*stage-2b-middle.csv.*{says}"): figure("figure-08", tmp_path)


def test_figure_4_has_whiskers_at_the_measured_scales(tmp_path):
    outer = runs_around((SMALL, LARGE))
    fill(tmp_path, outer, runs_around((MIDDLE,)))
    frame, _ = figure("figure-04", tmp_path)
    known = frame.set_index("mixture").sd_between_seeds
    assert known["projected to 4.8M tokens"].isna().all()
    for design in find_designs(outer):
        assert known[f"DDO at {format_tokens(design.total)} tokens"].to_numpy() == pytest.approx(seed_spread(o.mixture for o in optima_by_seed(design, "nats", .2 / 3).values()))


def test_a_change_within_two_standard_errors_is_in_brackets():
    design = find_designs(runs_around((LARGE,), sd=.02))[0]
    fig, frame = draw_interactions(design)
    unsure = frame.perplexity_change_percent.abs() < 2 * frame.standard_error_percent
    shown = [t.get_text() for ax in fig.axes[:2] for t in ax.texts]
    assert [t.startswith("(") for t in shown] == unsure.tolist() and 0 < unsure.sum() < len(frame) and set(frame.repeats) == {3}
    assert [float(t.strip("()")) for t in shown] == pytest.approx(frame.perplexity_change_percent.tolist(), abs=.051)


def test_one_run_of_each_mixture_draws_as_before():
    design = find_designs(runs_around((LARGE,), (0,)))[0]
    fig, frame = draw_interactions(design)
    assert list(frame) == ["domain_changed", "amount", "judged_on", "perplexity_change_percent"] and not any("(" in t.get_text() for ax in fig.axes for t in ax.texts)
    assert "standard_error" not in draw_laws({"x": fit_ddo(design)})[1]


def test_law_points_carry_their_standard_error():
    law = fit_ddo(find_designs(runs_around((LARGE,)))[0])
    frame = draw_laws({"x": law})[1]
    assert frame.standard_error.tolist() == pytest.approx(np.concatenate([law.errors[d] for d in DOMAINS]).tolist())
    assert (frame.standard_error == 0).tolist() == (frame.amount == 1).tolist()


def test_whiskers_only_where_the_spread_is_known():
    mixtures = {"a": Mixture.uniform(DOMAINS, 300), "b": Mixture(DOMAINS, (100, 150, 50))}
    frame = draw_weights(mixtures, spread={"b": np.array([.1, .2, .3])})[1]
    assert frame.sd_between_seeds.isna().tolist() == [True] * 3 + [False] * 3 and frame.sd_between_seeds.tolist()[3:] == [.1, .2, .3]
    assert "sd_between_seeds" not in draw_weights(mixtures)[1]
