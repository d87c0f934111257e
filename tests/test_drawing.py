"""Drawing: one look for each domain that readers with a colour vision deficiency, and readers of grey paper, can tell apart; plots that draw the numbers on the axes
they are given; tables for notebooks in which a name stays text."""
import html.parser
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from autoscale.ddo import find_designs, fit_ddo
from autoscale.figures import draw_laws, draw_projection
from autoscale.joint import fit_joint
from autoscale.mixture import Mixture, domain_styles, format_tokens, html_table, plain, with_epochs
from autoscale.projection import project
from autoscale.published import published_runs
from autoscale.registry import package_domains, preset_sources
from autoscale.runs import RunTable, sample_run_table

FIGURES = Path(__file__).parents[1] / "figures"
TOGETHER = {"published": published_runs().domains, **{preset: tuple(preset_sources(preset)) for preset in ("six", "seven")}}  # the domains that this project draws in one figure

# Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency", severity 1.0; for linear RGB.
VISIONS = {"normal": np.eye(3),
           "protanopia": [[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
           "deuteranopia": [[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
           "tritanopia": [[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]]}
XYZ = np.array([[.4124564, .3575761, .1804375], [.2126729, .7151522, .0721750], [.0193339, .1191920, .9503041]])  # sRGB, D65


def lab(color, vision="normal"):
    "CIE L*a*b* of an sRGB colour as somebody with that vision sees it."
    c = np.array(matplotlib.colors.to_rgb(color))
    seen = np.clip(np.array(VISIONS[vision]) @ np.where(c <= .04045, c / 12.92, ((c + .055) / 1.055) ** 2.4), 0, 1)
    t = XYZ @ seen / XYZ.sum(1)
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(first, second):
    "Colour difference (Sharma, Wu and Dalal 2005)."
    (l1, a1, b1), (l2, a2, b2) = first, second
    sin, cos, radians = (lambda deg: np.sin(np.radians(deg))), (lambda deg: np.cos(np.radians(deg))), np.radians
    c = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = .5 * (1 - np.sqrt(c ** 7 / (c ** 7 + 25. ** 7)))
    c1, c2 = np.hypot(a1 * (1 + g), b1), np.hypot(a2 * (1 + g), b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1 * (1 + g))) % 360, np.degrees(np.arctan2(b2, a2 * (1 + g))) % 360
    turn = (h2 - h1 + 180) % 360 - 180
    l, c, h = (l1 + l2) / 2, (c1 + c2) / 2, (h1 + turn / 2) % 360
    t = 1 - .17 * cos(h - 30) + .24 * cos(2 * h) + .32 * cos(3 * h + 6) - .2 * cos(4 * h - 63)
    dl = (l2 - l1) / (1 + .015 * (l - 50) ** 2 / np.sqrt(20 + (l - 50) ** 2))
    dc, dh = (c2 - c1) / (1 + .045 * c), 2 * np.sqrt(c1 * c2) * np.sin(radians(turn / 2)) / (1 + .015 * c * t)
    rotation = -sin(60 * np.exp(-((h - 275) / 25) ** 2)) * 2 * np.sqrt(c ** 7 / (c ** 7 + 25. ** 7))
    return np.sqrt(dl ** 2 + dc ** 2 + dh ** 2 + rotation * dc * dh)


def closest(colors, vision):
    seen = [lab(c, vision) for c in colors]
    return min(ciede2000(a, b) for a, b in itertools.combinations(seen, 2))


def test_the_colour_difference_is_the_published_one():
    "Pairs 1, 7, 13, 17, 24 and 33 of Sharma, Wu and Dalal's table."
    for first, second, known in [((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425), ((50, 0, 0), (50, -1, 2), 2.3669), ((50, -.0010, 2.4900), (50, .0009, -2.4900), 4.8045),
                                 ((50, 2.5, 0), (73, 25, -18), 27.1492), ((50, 2.5, 0), (50, 3.2592, .3350), 1.0000), ((6.7747, -.2908, -2.4247), (5.8714, -.0985, -2.2286), .6377)]:
        assert ciede2000(first, second) == pytest.approx(known, abs=1e-4)


@pytest.mark.parametrize("vision, least", [("normal", 20.7), ("protanopia", 14.9), ("deuteranopia", 14.9), ("tritanopia", 14.9)])
def test_twelve_colours_stay_apart(vision, least):
    colors = {s["color"] for s in domain_styles([str(i) for i in range(12)]).values()}
    assert len(colors) == 12 and closest(colors, vision) >= least > closest([f"C{i}" for i in range(10)], vision)


@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_domains_drawn_together_differ_in_colour_marker_and_line(names):
    looks = domain_styles(names).values()
    for what in ("color", "marker", "linestyle"): assert len({str(s[what]) for s in looks}) == len(names), what


def test_names_of_the_project_keep_their_look_whatever_stands_beside_them():
    names = sorted(set().union(*TOGETHER.values()) - {"wiki"})  # wiki is the authors' name of wikipedia
    whole = domain_styles(names)
    assert len({str(s) for s in whole.values()}) == len(names) == 10
    for group in TOGETHER.values():
        for order in (group, group[::-1], ("mine", *group, "yours")):
            looks = domain_styles(order)
            assert all(looks[d] == whole["wikipedia" if d == "wiki" else d] for d in group)
    assert domain_styles(["Common Crawl", "C4"]) == {"Common Crawl": whole["common_crawl"], "C4": whole["c4"]}


def test_two_names_of_one_domain_are_still_two_domains():
    looks = domain_styles(["wiki", "wikipedia", "Wikipedia"])
    assert looks["wiki"] == domain_styles(["wikipedia"])["wikipedia"] and len({str(s) for s in looks.values()}) == len({s["color"] for s in looks.values()}) == 3


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(st.one_of(st.sampled_from([*package_domains, *published_runs().domains]), st.text(max_size=8)), max_size=24, unique=True))
def test_up_to_24_domains_are_told_apart_without_colour(names):
    looks = domain_styles(names)
    assert list(looks) == names and len({(s["marker"], str(s["linestyle"])) for s in looks.values()}) == len(names)
    assert len({s["color"] for s in looks.values()}) == min(12, len(names))  # no colour comes twice before all have come


def test_many_domains_repeat_colours_and_no_look():
    looks = list(domain_styles([f"domain {i}" for i in range(60)]).values())
    assert len({str(s) for s in looks}) == 60
    for a, b in itertools.combinations(looks, 2):
        if a["color"] == b["color"]: assert a["marker"] != b["marker"] and str(a["linestyle"]) != str(b["linestyle"])


def test_shades_of_bars_are_in_order_in_grey():  # as `draw_weights` colours mixtures
    from autoscale.figures import draw_weights
    fig, _ = draw_weights({f"mixture {i}": Mixture.uniform(("a", "b"), 10 ** (i + 2)) for i in range(4)})
    light = [lab(bars[0].get_facecolor()[:3])[0] for bars in fig.axes[0].containers]
    assert len(light) == 4 and all(a - b > 10 for a, b in itertools.pairwise(light))


# Plots: the axes given come back, and what is drawn on them are the numbers.

@pytest.fixture(scope="module")
def table(): return sample_run_table()


@pytest.fixture(scope="module")
def law(table): return fit_joint(table)


def axes(): return Figure().subplots()


def line(ax, name): return next(artist for artist in ax.lines if artist.get_label() == name)


def drawn(ax):
    ax.figure.canvas.draw()
    return ax


def test_a_mixture_draws_its_weights_interval_and_the_uniform_share():
    mixture = Mixture(("wikipedia", "mine", "c4"), (5, 3, 2), interval={"level": .8, "low": [.4, .2, .1], "high": [.6, .5, .3]})
    ax = axes(); assert drawn(mixture.plot(ax)) is ax
    assert [bar.get_height() for bar in ax.patches] == mixture.weights.tolist()
    assert [matplotlib.colors.to_hex(bar.get_facecolor()) for bar in ax.patches] == [s["color"] for s in domain_styles(mixture.domains).values()]
    assert [[tuple(end) for end in whisker] for whisker in ax.collections[0].get_segments()] == [[(0, .4), (0, .6)], [(1, .2), (1, .5)], [(2, .1), (2, .3)]]
    assert set(line(ax, "uniform share").get_ydata()) == {1 / 3} and [t.get_text() for t in ax.get_xticklabels()] == ["wikipedia", "mine", "c4"]
    assert "80% interval" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_run_tables_draw_every_loss(table):
    ax = axes(); assert drawn(table.plot(ax)) is ax
    for j, v in enumerate(table.validation):
        dots = line(ax, v)
        assert dots.get_ydata().tolist() == table.losses[:, j].tolist() and dots.get_xdata().tolist() == table.tokens.sum(1).tolist()
        assert (dots.get_color(), dots.get_marker()) == tuple(domain_styles(table.domains)[v][k] for k in ("color", "marker"))
    assert "100k" in [t.get_text() for t in ax.get_xticklabels()]


def test_ddo_draws_points_and_laws(table):
    fit = fit_ddo(find_designs(table)[-1])
    ax = axes(); assert drawn(fit.plot(ax)) is ax
    for d in fit.domains:
        assert (line(ax, d).get_xdata().tolist(), line(ax, d).get_ydata().tolist()) == tuple(a.tolist() for a in fit.points[d])
    for curve, (d, one) in zip([artist for artist in ax.lines if len(artist.get_xdata()) == 60], fit.laws.items(), strict=True):
        assert curve.get_ydata() == pytest.approx(one(curve.get_xdata())) and curve.get_color() == domain_styles(fit.domains)[d]["color"]


def test_a_law_draws_the_weights_that_it_recommends_at_each_budget(law):
    ax = axes(); assert drawn(law.plot(ax, to=2_000_000, floor=.02)) is ax
    budgets = line(ax, "c4").get_xdata()
    assert budgets[0] == pytest.approx(law.measured[0], rel=1e-4) and budgets[-1] == 2_000_000
    for at in (0, -1):
        best = law.optimum(int(budgets[at]), floor=.02)
        assert [line(ax, d).get_ydata()[at] for d in law.domains] == best.weights.tolist()
    bars = [artist for artist in ax.lines if len(artist.get_xdata()) == 2 and artist.get_xdata()[0] > 2_000_000]
    assert [list(bar.get_ydata()) for bar in bars] == [[low, high] for low, high in zip(best.mixture.interval["low"], best.mixture.interval["high"])]
    assert "90%" in ax.get_legend().get_title().get_text() and "2M" in ax.get_legend().get_title().get_text()


def test_an_optimum_draws_its_mixture_and_says_the_gain(law):
    best = law.optimum(1_000_000)
    ax = axes(); assert drawn(best.plot(ax)) is ax
    assert [bar.get_height() for bar in ax.patches] == best.mixture.weights.tolist() and f"{best.gain['uniform'][0]:.4f}" in ax.get_title()


def test_plots_make_their_own_axes_where_none_are_given(table, law):
    import matplotlib.pyplot as plt
    with matplotlib.rc_context({"figure.max_open_warning": 0}):
        made = [table.mixture(0).plot(), table.plot(), law.plot(), law.optimum(1_000_000).plot(), fit_ddo(find_designs(table)[0]).plot()]
    assert len({id(ax.figure) for ax in made}) == 5
    for ax in made: plt.close(drawn(ax).figure)


def test_figures_draw_each_domain_in_its_look():
    "Of the paper's figures 5 and 6, in which lines and points stand for domains."
    names = ("c4", "books", "mine"); looks = domain_styles(names)
    scales = [Mixture(names, (100, 200, 300)), Mixture(names, (800, 600, 900))]
    fig, _ = draw_projection(scales, project(scales, 10_000).mixture)
    for ax in fig.axes:
        for d in names:
            of = [artist for artist in ax.lines if artist.get_color() == looks[d]["color"]]
            assert {artist.get_linestyle() for artist in of} >= {matplotlib.lines.Line2D([], [], linestyle=looks[d]["linestyle"]).get_linestyle()}
            assert {artist.get_marker() for artist in of if len(artist.get_xdata()) == 1} == {looks[d]["marker"]}
    design = fit_ddo(find_designs(published_runs())[0], "perplexity")
    fig, _ = draw_laws({"one": design, "other": design})
    for d, ax in zip(design.domains, fig.axes):
        assert {artist.get_color() for artist in ax.lines} == {domain_styles(design.domains)[d]["color"]}
        assert len({artist.get_marker() for artist in ax.lines if len(artist.get_xdata()) == 3}) == 2  # a marker for each scale


def test_names_with_dollars_and_underscores_are_drawn_as_they_are():
    "Between two dollar signs matplotlib reads a formula, and `_` at the beginning of a label hides it."
    names = ("$\\frac{", "a $b$ c$", "_web")
    table = RunTable(("x", "y"), names, names, np.array([[1e6, 2e6, 3e6], [4e6, 5e6, 6e6]]), np.ones((2, 3)))
    for ax in (drawn(table.plot(axes())), drawn(table.mixture(0).plot(axes()))):
        texts = [t.get_text() for t in (ax.get_legend().get_texts() if ax.lines and len(ax.lines) == 3 else ax.get_xticklabels())]
        assert texts == [plain(d) for d in names] and all(not d.startswith("_") for d in texts)
    assert plain("common_crawl") == "common_crawl" and plain("a $b$ c$") == r"a \$b\$ c\$" and plain("_web") == "\u200b_web"
    assert not any(matplotlib.cbook.is_math_text(plain(d)) for d in ("$x$", "$\\frac{$", "a $b$ c")) and matplotlib.cbook.is_math_text("$x$")


# Tables in notebooks.

class Table(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__(); self.tags, self.texts = [], []
        self.feed(text); self.close()
    def handle_starttag(self, tag, attrs): self.tags.append(tag)
    def handle_data(self, data): self.texts.append(data)


HOSTILE = ("<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "books & <b>more</b>")


def everything(domains):
    "One of each thing that a notebook shows, over these domains."
    from autoscale.sweep import ddo_design
    rows = [(f"{name} of {domains[0]} @ {format_tokens(total)}", mixture) for total in (300_000, 1_200_000) for name, mixture in ddo_design(Mixture.uniform(domains, total))]
    tokens = np.array([mixture.tokens for _, mixture in rows], float)
    table = RunTable(tuple(name for name, _ in rows), domains, domains, tokens, 2 + 9 * (tokens @ np.array([[1, .1, .3], [.1, 1, .1], [.2, .1, 1]]).T) ** -np.array([.12, .2, .15]))
    fits = [fit_ddo(d) for d in find_designs(table)]; scales = [f.optimum() for f in fits]; law = fit_joint(table)
    mixture = with_epochs(law.optimum(5_000_000).mixture, dict.fromkeys(domains, 1_000_000))
    return {"mixture": mixture, "runs": table, "ddo": fits[0], "ddo optimum": scales[0], "law": law, "law optimum": law.optimum(5_000_000), "projection": project([s.mixture for s in scales], 5_000_000)}


def test_notebooks_show_names_as_text_and_numbers_with_intervals():
    shown = {what: Table(one._repr_html_()) for what, one in everything(HOSTILE).items()}
    for what, page in shown.items():
        assert set(page.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}, what  # nothing that a name brought
        assert all(any(d in text for text in page.texts) for d in HOSTILE), what
    honest = everything(("web", "code", "books"))
    mixture = honest["mixture"]; texts = Table(mixture._repr_html_()).texts
    for w, n, e, low, high in zip(mixture.weights, mixture.tokens, mixture.epochs, mixture.interval["low"], mixture.interval["high"]):
        assert {f"{w:.4f}", f"{n:,}", f"{e:.2f}", f"{low:.4f} to {high:.4f}"} <= set(texts)
    assert "90% interval" in texts
    best = honest["law optimum"]; assert any(f"{best.gain['uniform'][0]:.4f}, {best.gain['uniform'][1]:.4f} to {best.gain['uniform'][2]:.4f}" == t for t in Table(best._repr_html_()).texts)
    assert any("nats per token" in t for t in Table(honest["runs"]._repr_html_()).texts)


def test_a_table_has_a_caption_and_it_is_text_too():
    page = Table(html_table({"x": [1]}, "runs of a & <b>"))
    assert page.tags == ["table", "caption", "thead", "tr", "th", "tbody", "tr", "td"] and page.texts == ["runs of a & <b>", "x", "1"]
    assert Table(Mixture(("a", "b"), (600, 400), "<i>mine</i>")._repr_html_()).texts[0] == "mixture of 1,000 tokens, <i>mine</i>"


def test_long_tables_are_cut_with_a_line_that_says_so():
    n = 100_000
    table = RunTable(tuple(map(str, range(n))), ("a",), ("a",), np.full((n, 1), 1e6), np.ones((n, 1)))
    page = Table(table._repr_html_())
    assert page.tags.count("tr") == 21 and "99,980 more of 100,000 rows" in page.texts and len(table._repr_html_()) < 10_000
    assert "more" not in html_table({"x": range(20)})


def test_nothing_of_this_imports_matplotlib_before_something_is_drawn():
    code = "import sys; from autoscale.runs import sample_run_table as s; from autoscale.mixture import domain_styles as d; d(s().domains); s()._repr_html_(); s().mixture(0)._repr_html_(); print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]


@pytest.mark.parametrize("profile", ["published", "mini", "smoke"])
def test_committed_pictures_have_the_colours_of_their_domains(profile):
    import pandas as pd
    drawing, frame = (FIGURES / profile / "figure-05.svg").read_text(encoding="utf-8"), pd.read_csv(FIGURES / profile / "figure-05.csv")
    for d, style in domain_styles(dict.fromkeys(frame.domain)).items(): assert f"stroke: {style['color']}" in drawing, d
