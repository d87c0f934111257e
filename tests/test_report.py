"""The report: the law's own numbers, on a page that needs nothing else and believes no name."""
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from autoscale.cli import app
from autoscale.joint import LAWS, fit_joint, held_out_laws
from autoscale.mixture import InputError, Mixture, load_mixture
from autoscale.report import make_report
from autoscale.runs import RunTable, sample_run_table, write_run_table

TARGET = 10_000_000
HOSTILE = ("<script>alert(1)</script>", "\"quo'tes\" & more", "</pre><img src=http://evil/x onerror=alert(1)>", "\u202egnp.exe", "]]>--><style>*{display:none}", "b" * 150)


class Page(HTMLParser):
    "Tags with attributes, text by section, tables as rows of cell texts, preformatted blocks."
    void = {"meta", "br", "wbr"}

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.tables, self.blocks, self.titles, self.style, self.section, self.open = [], {"": ""}, {}, [], {}, "", "", []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void: self.open.append(tag)
        if tag == "section": self.section = dict(attrs)["id"]; self.text[self.section] = ""; self.titles[self.section] = []
        if tag == "table": self.tables[self.section, dict(attrs)["aria-label"]] = []
        if tag == "tr": self._last().append([])
        if tag in ("td", "th"): self._last()[-1].append("")
        if tag == "pre": self.blocks.append("")
        if tag == "title" and "svg" in self.open: self.titles[self.section].append("")

    def handle_startendtag(self, tag, attrs): self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "section": self.section = ""

    def handle_data(self, data):
        if self.open[-1:] == ["style"]: self.style += data
        elif "title" in self.open and "svg" in self.open: self.titles[self.section][-1] += data
        else: self.text[self.section] += data
        if "td" in self.open or "th" in self.open: self._last()[-1][-1] += data
        if "pre" in self.open: self.blocks[-1] += data

    def _last(self): return self.tables[list(self.tables)[-1]]


def number(text): return float(text.replace("−", "-").replace(",", ""))


def numbers(text): return [number(n) for n in re.findall(r"−?[\d,]+\.?\d*", text)]


def simulated(m, v, totals, seed=0, repeats=1):
    "Runs at random mixtures: the loss falls with the length and with each domain's own weight."
    rng = np.random.default_rng(seed)
    names = tuple(f"d{i}" for i in range(m))
    weights, total = rng.dirichlet(np.full(m, 5.), len(totals)), np.array(totals, float)
    weights, total = np.repeat(weights, repeats, 0), np.repeat(total, repeats)
    losses = 2 + 3 * (total[:, None] / 1e6) ** -.2 - .5 * np.sqrt(weights[:, :v]) + rng.normal(0, .003, (len(total), v))
    return RunTable(tuple(f"r{i}" for i in range(len(total))), names, names[:v], np.round(weights * total[:, None]), losses)


@pytest.fixture(scope="module")
def report(): return make_report(sample_run_table(), TARGET, command="autoscale report sample --to 10M -o report.html", source="sample")


@pytest.fixture(scope="module")
def page(report): return Page(report.html)


@pytest.fixture(scope="module")
def best(): return LAWS["joint"](sample_run_table()).optimum(TARGET)


def test_answer_is_the_laws(page, report, best):
    head, *rows, total = page.tables["answer", "the mixture"]
    assert head == ["domain", "", "weight", "90% interval", "tokens"] and number(total[-1]) == TARGET
    assert [r[0] for r in rows] == [best.mixture.domains[i] for i in np.argsort(-best.weights, kind="stable")]
    for row in rows:
        i = best.mixture.domains.index(row[0])
        assert row[2] == f"{best.mixture.weights[i]:.4f}" and number(row[4]) == best.mixture.tokens[i]
        assert numbers(row[3]) == [round(best.mixture.interval[k][i], 4) for k in ("low", "high")]
    said = [f"{x:.4f}".replace("-", "−") for x in (best.value, *best.interval, *best.gain["uniform"])]
    assert all(s in page.text["answer"] for s in said)
    assert "cannot be told from uniform" in report.verdict and report.verdict in page.text["answer"] and best.gain["uniform"][1] < 0
    assert "25.4 times beyond the largest run" in page.text["answer"] and "would need" not in page.text["answer"]


def test_mixture_file_on_the_page_is_the_mixture(page, best, tmp_path):
    [text] = [b for b in page.blocks if b.startswith("{")]
    (tmp_path / "mixture.json").write_text(text)
    loaded = load_mixture(tmp_path / "mixture.json")
    assert loaded == best.mixture and all(np.array(loaded.interval[k]) == pytest.approx(np.array(best.mixture.interval[k]), abs=6e-7) for k in ("low", "high")) and loaded.method == "joint"


def test_run_table_on_the_page_is_the_run_table(page, tmp_path):
    write_run_table(tmp_path / "runs.csv", sample_run_table())
    text = (tmp_path / "runs.csv").read_text()
    assert text in page.blocks and hashlib.sha256(text.encode()).hexdigest() in page.text["repeat"]


def test_fits_show_every_run_and_what_the_law_predicts(page):
    table = sample_run_table(); predicted = LAWS["joint"](table).loss(table.tokens)
    expected = {f"{run}: measured {table.losses[r, j]:.4f}, predicted {predicted[r, j]:.4f}" for r, run in enumerate(table.runs) for j in range(6)}
    assert set(page.titles["fits"]) == expected and len(page.titles["fits"]) == table.losses.size
    _, *rows = page.tables["fits", "residuals"]
    left = predicted - table.losses
    assert {r[0]: number(r[3]) for r in rows} == {v: round(float(np.sqrt((left[:, j] ** 2).mean())), 4) for j, v in enumerate(table.validation)}
    assert {r[0]: r[1] for r in rows} == {v: table.runs[np.abs(left[:, j]).argmax()] for j, v in enumerate(table.validation)}
    assert {r[0]: number(r[-1]) for r in rows} == {v: round(float(left[np.abs(left[:, j]).argmax(), j]), 4) for j, v in enumerate(table.validation)}  # above 0: the law says more than was measured


def test_residuals_above_the_line_are_losses_that_the_law_says_too_high(report):
    table = sample_run_table(); left = LAWS["joint"](table).loss(table.tokens) - table.losses
    for j, v in enumerate(table.validation):
        [picture] = re.findall(f'aria-label="residuals on {v}">(.*?)</svg>', report.html)
        zero = float(re.search(r'class="uniform" points="[\d.]+,([\d.]+) ', picture)[1])
        up = [zero - float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', picture)]
        assert sorted(up) == pytest.approx(sorted(left[:, j] * max(up) / left[:, j].max()), abs=.11)  # written to a tenth of a pixel


def test_held_out_errors_and_other_laws(page, best):
    table = sample_run_table()
    shown = {r[0].removesuffix(" (this report)"): [number(c) for c in r[1:]] for r in page.tables["held-out", "held-out errors"][1:]}
    assert shown == {name: [round(e["mixtures"], 4), round(e["scale"], 4)] for name, e in held_out_laws(table).items()}
    head, *rows = page.tables["laws", "weights by law"]
    for name in ("ddo", "bimix"):
        weights = LAWS[name](table).optimum(TARGET).weights
        assert {r[0]: number(r[head.index(name)]) for r in rows} == pytest.approx(dict(zip(table.domains, weights)), abs=6e-4)
    prices = {r[0]: r for r in page.tables["laws", "what the other mixtures would cost"][1:]}
    assert [number(prices["uniform"][3]), *numbers(prices["uniform"][4])] == pytest.approx(best.gain["uniform"], abs=6e-5)


def test_path_ends_beyond_the_target_and_passes_the_answer(page, best):
    head, *rows = page.tables["path", "weights over the budget"]
    [answer] = [r for r in rows if r[0] == "target 10M"]
    assert rows[0][0] == "65.54k" and rows[-1][0] == "100M" and "393.2k" in [r[0] for r in rows]
    assert dict(zip(head[1:], map(number, answer[1:]))) == {d: round(float(w), 4) for d, w in zip(best.mixture.domains, best.weights)}


def self_contained(html):
    page = Page(html)
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "footer", "nav", "section", "h1", "h2", "h3", "h4", "p", "a", "b", "bdi", "br", "wbr", "small", "sub", "sup", "span", "div", "dl", "dt", "dd", "ul", "li", "pre",
               "code", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary", "svg", "path", "polyline", "polygon", "circle", "text"}
    for tag, attrs in page.tags:
        assert tag in allowed, tag
        assert not {a for a in attrs if a.startswith("on") or a in ("src", "srcset", "xlink:href", "formaction", "background")}, (tag, attrs)
        assert attrs.get("href", "#")[:1] == "#" or attrs["href"].startswith("data:application/json;base64,")
        assert "#" not in attrs.get("fill", "") + attrs.get("stroke", ""), "a colour of its own would not follow the page's"
    assert "@import" not in page.style and "url(" not in page.style and "http" not in page.style
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(v for k, v in page.text.items() if k != "repeat"))
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    return page


def test_self_contained_and_small(report):
    self_contained(report.html)
    assert len(report.html.encode()) < 200_000


def test_links_lead_somewhere(page):
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert all(a["href"][1:] in ids for t, a in page.tags if t == "a" and a["href"].startswith("#"))


def test_colours_are_legible_on_white_on_black_and_on_paper(page):
    light, dark, paper = re.findall(r":root\{(.*?)\}", page.style)
    assert "prefers-color-scheme:dark" in page.style.split(dark)[0] and "@media print" in page.style.split(dark)[1].split(paper)[0]

    def contrast(a, b):
        def luminance(c): return sum(k * (v / 12.92 if v <= .04045 else ((v + .055) / 1.055) ** 2.4) for k, v in zip((.2126, .7152, .0722), (int(c[i:i + 2], 16) / 255 for i in (1, 3, 5))))
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + .05) / (low + .05)
    names = []
    for block in (light, dark, paper):
        colours = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", block)); names.append(set(colours))
        assert {f"d{k}" for k in range(6)} <= set(colours)
        for name, colour in colours.items():
            if re.fullmatch(r"d\d+", name): assert contrast(colour, colours["page"]) >= 2.99, name
            if name in ("ink", "soft", "link", "good", "check", "caution"): assert contrast(colour, colours["page"]) >= 4.5, name
    assert names[0] == names[1] == names[2]


def test_names_are_text_and_nothing_else():
    table = simulated(6, 6, [1e6] * 6 + [4e6] * 6)
    table = replace(table, domains=HOSTILE, validation=(*HOSTILE[:5], "unseen <i>"), runs=tuple(f"<b onclick=x>'{r}" for r in table.runs))
    report = make_report(table, 20_000_000, objective={HOSTILE[0]: 2, "unseen <i>": 1}, command="autoscale report '<i>&.csv'", source="<i>&.csv")
    page = self_contained(report.html)
    assert {r[0] for r in page.tables["answer", "the mixture"][1:-1]} == set(HOSTILE)
    assert any(r[1] in table.runs for r in page.tables["fits", "residuals"][1:])
    assert "autoscale report '<i>&.csv'" in page.blocks and "unseen <i> is judged and never trained on" in page.text["diagnostics"]
    assert "<script" not in report._repr_html_() and "<img" not in report._repr_html_()
    labels = {a["aria-label"] for t, a in page.tags if t == "svg" and "aria-label" in a}
    assert {f"weight of {d} over the budget" for d in HOSTILE} | {f"{what} on {v}" for what in ("predicted against measured loss", "residuals") for v in table.validation} <= labels
    assert all(set(a) <= {"class", "viewbox", "role", "aria-label", "aria-hidden", "style", "preserveaspectratio"} for t, a in page.tags if t == "svg")


def test_same_bytes_in_another_process_with_other_threads(tmp_path):
    table = simulated(3, 3, [1e6] * 5 + [5e6] * 5)
    write_run_table(tmp_path / "runs.csv", table)
    script = "import sys; from autoscale.report import make_report; from autoscale.runs import read_run_table; sys.stdout.buffer.write(make_report(read_run_table(sys.argv[1]), 40_000_000, source=sys.argv[1]).html.encode())"
    other = subprocess.run([sys.executable, "-c", script, str(tmp_path / "runs.csv")], capture_output=True, check=True, env={**os.environ, "PYTHONHASHSEED": "7", "OPENBLAS_NUM_THREADS": "1"}).stdout
    html = make_report(table, 40_000_000, source=tmp_path / "runs.csv").html
    assert other == html.encode()
    assert hashlib.sha256((tmp_path / "runs.csv").read_bytes()).hexdigest() in html


def test_one_scale_without_designs():
    page = self_contained(make_report(simulated(3, 3, [1e6] * 10), 2_000_000).html)
    checks = {r[1]: r for r in page.tables["diagnostics", "diagnostics"][1:]}
    assert checks["Budgets of the runs"][0] == "caution" and "One scale" in checks["Budgets of the runs"][2]
    assert {r[2] for r in page.tables["held-out", "held-out errors"][1:]} == {"not known"}
    assert "no DDO design" in page.text["designs"].replace("No DDO", "no DDO") and not page.titles["designs"]
    assert "ddo: no DDO design" in page.text["laws"]
    assert checks["Repeats"][0] == "check" and checks["Number of runs"][0] == "check"


def test_diagnostics_of_the_sample_in_words(page):
    checks = {r[1]: (r[0], r[2]) for r in page.tables["diagnostics", "diagnostics"][1:]}
    assert [r[0] for r in page.tables["diagnostics", "diagnostics"][1:]] == sorted((c[0] for c in checks.values()), key=["caution", "check", "good"].index)
    for question, found in {"Budgets of the runs": ("good", "65.54k to 393.2k tokens, a factor of 6."), "Number of runs": ("good", "26 runs for 6 domains."), "Trained on and judged": ("good", "Every domain is both."),
                            "How far out is the target?": ("caution", "25.4 times the largest run. No interval on this page covers a law that changes its form out there."),
                            "Domains at a limit": ("good", "None: the law chose every weight."),
                            "Repeats": ("check", "No mixture was run twice: what a seed alone does to a loss is not known. Repeat the base run with two other seeds."),
                            "Repetition at the target": ("check", "The tokens available of each domain were not given; epochs are not known, and repeated tokens are counted as new ones.")}.items():
        assert checks[question] == found
    assert not {"One model?", "Are these losses?", "Repetition in the runs"} & set(checks)


def test_doubts_about_runs_in_words_and_a_mixture_that_is_worse():
    "Two sizes of model, losses that look like perplexities, runs that repeated tokens, a scarce domain; and a law that expects more of uniform weights."
    class Behind(type(fit_joint(sample_run_table()))):
        def optimum(self, *given, **named): return replace(best := super().optimum(*given, **named), gain={**best.gain, "uniform": np.array([-.03, -.05, -.01])})
    table = simulated(2, 1, [1e6] * 4)
    table = replace(table, losses=table.losses + 20, params=np.array([1000, 2000] * 2), unique=np.where(np.arange(4)[:, None] < 3, table.tokens // 2, np.inf))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LAWS, "joint", lambda table: Behind(**vars(fit_joint(table))))
        report = make_report(table, 2_000_000, available={"d0": 50_000, "d1": 10_000_000}, target_floor=.25)
    page = self_contained(report.html)
    checks = {r[1]: (r[0], r[2]) for r in page.tables["diagnostics", "diagnostics"][1:]}
    worse = "Worse than uniform weights: they are expected to end 0.0300 nats per token below this mixture under the limits that were set (90% interval −0.0500 to −0.0100 for the gain)."
    assert report.verdict == worse and checks["Better than uniform?"] == ("caution", worse) and "What to do: use uniform weights, which the limits allow." in page.text["answer"]
    assert checks["One model?"] == ("caution", "The runs are of models with 1,000, 2,000 parameters; no law here knows of the size, and takes them for one.")
    assert checks["Are these losses?"][0] == "caution" and f"Their median is {np.median(table.losses):.4g} nats per token" in checks["Are these losses?"][1]
    assert checks["Repetition in the runs"] == ("check", "3 runs repeated tokens of a domain and count as runs of fewer.")
    assert checks["Repetition at the target"][0] == "caution" and checks["Repetition at the target"][1].startswith("Seen more than four times over: d0 (")
    assert checks["Number of runs"] == ("caution", "4 runs for 2 domains. 9 or more, three for each domain and three, are a common rule; below 7 the priors decide.")
    assert checks["How far out is the target?"][0] == "check" and checks["Budgets of the runs"][0] == "caution"


def mapped(folder):
    w = np.array([[.5, .5], [.3, .7], [.7, .3], [.6, .4]])
    rows = [f"r{i},{a},{b},{3 - .5 * a ** .5:.4f},{2.5 - .4 * b ** .5:.4f}" for i, (a, b) in enumerate(w)]
    (folder / "export.csv").write_text("\n".join(["name,w/web,w/code,eval/web/loss,eval/code/loss", *rows, ""]))
    (folder / "columns.json").write_text(json.dumps({"run": "name", "weights": "w/{domain}", "total": "1M", "loss": {"web": "eval/web/loss"}}))
    return ["export.csv", "--columns", "columns.json"], ["export.csv", "columns.json"]


def paired(folder):
    mapped(folder)
    lines = [line.split(",") for line in (folder / "export.csv").read_text().splitlines()]
    (folder / "weights.csv").write_text("".join(",".join(line[:3]).replace("w/", "") + "\n" for line in lines))
    (folder / "metrics.csv").write_text("".join(f"{line[0]},{line[3].replace('eval/web/loss', 'web')}\n" for line in lines))
    return ["weights.csv", "--metrics", "metrics.csv", "--tokens", "1M"], ["weights.csv", "metrics.csv"]


def test_the_lines_in_python_make_the_same_report_of_mapped_and_of_paired_tables(tmp_path, monkeypatch):
    "Taken from the page and run by another Python in the folder; what the table was read with is on the page with its checksum."
    pages = {}
    for made in (mapped, paired):
        (folder := tmp_path / made.__name__).mkdir(); given, files = made(folder); monkeypatch.chdir(folder)
        words = ["report", *given, "--to", "2M", "-o", "first.html"]
        monkeypatch.setattr(sys, "argv", ["autoscale", *words])
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        page = pages[folder] = Page((folder / "first.html").read_text(encoding="utf-8"))
        assert shlex.join(["autoscale", *words]) in page.blocks
        for name in files: assert f"{name}sha256 {hashlib.sha256((folder / name).read_bytes()).hexdigest()}" in page.text["repeat"]
        [lines] = [b for b in page.blocks if b.startswith("from autoscale import")]
        (folder / "lines.py").write_text(lines)
    run = "import os, runpy, sys\nfor folder in sys.argv[1:]: os.chdir(folder); runpy.run_path('lines.py')"
    subprocess.run([sys.executable, "-c", run, *map(str, pages)], check=True)
    for folder, page in pages.items():
        again = Page((folder / "report.html").read_text(encoding="utf-8"))
        mixture = lambda page: next(b for b in page.blocks if b.startswith("{"))
        assert mixture(again) == mixture(page) and again.tables == page.tables


def test_repeats_and_a_domain_that_is_not_judged():
    table = simulated(3, 2, [1e6] * 6 + [5e6] * 6, repeats=2)
    page = self_contained(make_report(table, 4_000_000).html)
    checks = {r[1]: r for r in page.tables["diagnostics", "diagnostics"][1:]}
    assert checks["Repeats"][0] == "good" and checks["How far out is the target?"][0] == "good"
    assert "d2 is trained on and not judged" in checks["Trained on and judged"][2]


def test_epochs_limits_and_natural_weights():
    table = sample_run_table()
    available = dict(zip(table.domains, (400_000, 3_000_000, 250_000, 2_000_000, 500_000, 900_000)))
    page = self_contained(make_report(table, 3_000_000, available=available, max_epochs=6, objective="github", target_floor=.02).html)
    head, *rows, _ = page.tables["answer", "the mixture"]
    assert head[-2:] == ["available", "epochs"]
    for row in rows:
        assert number(row[-2]) == available[row[0]] and number(row[-1]) == pytest.approx(number(row[-3]) / available[row[0]], abs=.006)
        assert number(row[-1]) <= 6 and number(row[2]) >= .0199
    assert {"natural", "unimax"} <= set(page.tables["laws", "weights by law"][0])
    there = np.array(list(available.values())) / sum(available.values())
    natural = page.tables["laws", "weights by law"][0].index("natural")
    assert {r[0]: number(r[natural]) for r in page.tables["laws", "weights by law"][1:]} == pytest.approx(dict(zip(available, there)), abs=6e-4)
    checks = {r[1]: r for r in page.tables["diagnostics", "diagnostics"][1:]}
    assert "github (at its most epochs)" in checks["Domains at a limit"][2] and "github (6 epochs)" in checks["Repetition at the target"][2]
    assert "the objective here is another" in page.text["designs"].lower()
    assert "available=" in page.blocks[0] and "max_epochs=6" in page.blocks[0] and "objective='github'" in page.blocks[0]


def test_the_papers_projection_claims_no_gain():
    report = make_report(sample_run_table(), 3_000_000, law="ddo")
    page = self_contained(report.html)
    assert "predicts no loss" in report.verdict and "gain over" not in page.text["answer"]
    assert not page.titles["fits"] and len(page.titles["designs"]) == 6 * 2 * 3  # six domains, two scales, three amounts
    weights = LAWS["ddo"](sample_run_table()).optimum(3_000_000).mixture.weights
    assert {r[0]: r[2] for r in page.tables["answer", "the mixture"][1:-1]} == {d: f"{w:.4f}" for d, w in zip(sample_run_table().domains, weights)}


def test_a_rival_has_no_interval():
    report = make_report(simulated(2, 2, [1e6] * 5 + [4e6] * 5), 8_000_000, law="bimix")
    page = self_contained(report.html)
    assert "single fit without an interval" in report.verdict and page.tables["answer", "the mixture"][0] == ["domain", "", "weight", "tokens"]


def test_large_tables_say_what_is_left_out(monkeypatch):
    monkeypatch.setattr("autoscale.report._large", 1000)  # as 64 domains and 258 runs are, in seconds
    page = self_contained(make_report(simulated(14, 13, [1e6] * 18 + [4e6] * 18), 10_000_000).html)
    assert len(page.tables["answer", "the mixture"]) == 16 and len(page.tables["fits", "residuals"]) == 14
    assert "autoscale fit RUNS.csv --held-out" in page.text["held-out"] and "--law bimix" in page.text["laws"]
    assert sum(t == "h4" for t, _ in page.tags) == 12 + 12
    assert "12 domains with the largest weights" in page.text["path"] and "12 validation domains with the largest residuals" in page.text["fits"]


def test_save_and_refusals(report, tmp_path):
    report.save(tmp_path / "deep" / "report.html")
    assert (tmp_path / "deep" / "report.html").read_text(encoding="utf-8") == report.html
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "report.html", tmp_path):
        with pytest.raises(InputError, match="cannot be written") as refused: report.save(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    table = simulated(2, 2, [1e6] * 4)
    with pytest.raises(InputError, match="choose joint"): make_report(table, 10**7, law="magic")
    with pytest.raises(InputError, match="below the smallest run"): make_report(table, 10)
    with pytest.raises(InputError, match="choose nats"): make_report(table, 10**7, objective="magic")
    with pytest.raises(InputError, match="epochs of what"): make_report(table, 10**7, max_epochs=4)


def test_a_notebook_shows_the_answer_and_not_the_page(report, best):
    shown = Page(report._repr_html_().replace("<table>", '<table aria-label="x">'))
    assert report.verdict in shown.text[""] and all(f"{w:.4f}" in shown.text[""] for w in best.mixture.weights)
    assert len(report._repr_html_()) < 5_000 and len(repr(report)) < 5_000
    assert isinstance(report.optimum.mixture, Mixture) and json.dumps(report.holds)


def test_limits_that_forbid_uniform_weights_leave_natural_ones_to_compare_with():
    table = sample_run_table()
    available = dict.fromkeys(table.domains, 10**10) | {"github": 50_000, "c4": 300_000}
    report = make_report(table, 3_000_000, law="log-linear", available=available, max_epochs=2)
    page, why = self_contained(report.html), "niform weights are not possible within 2 epochs (github 10)"
    assert list(report.optimum.gain) == ["natural"] and "natural weights" in report.verdict and "uniform" not in report.verdict
    assert f"U{why}" in page.text["answer"] and "gain over uniform" not in page.text["answer"] and f"u{why}" in page.text["laws"]
    checks = {r[1]: r for r in page.tables["diagnostics", "diagnostics"][1:]}
    assert "Better than uniform?" not in checks and checks["Would uniform weights be possible?"][0] == "check" and "Better than natural?" in checks


def test_limits_that_leave_no_choice_make_no_law_agree():
    table = sample_run_table()
    available = dict.fromkeys(table.domains, 50_000) | {"wikipedia": 1_240_000}
    report = make_report(table, 2_980_000, available=available, max_epochs=2)
    page = self_contained(report.html)
    assert report.verdict.startswith("The limits leave no choice") and any("limits leave no choice" in n for n in report.optimum.notes) and not any("not distinguishable" in n for n in report.optimum.notes)
    assert {r[3] for r in page.tables["answer", "the mixture"][1:-1]} == {"fixed by the limits"} and "What to do" not in page.text["answer"]
    checks = {r[1]: r for r in page.tables["diagnostics", "diagnostics"][1:]}
    assert checks["Do other laws agree?"][0] == "check" and "no choice either" in checks["Do other laws agree?"][2]


def test_a_no_says_what_to_do_and_what_would_decide(page, report):
    assert "What to do: uniform weights are as well supported by these runs" in page.text["answer"] and "What would decide: train this mixture and uniform weights side by side" in page.text["answer"]
    assert "other seeds" in page.text["answer"]  # no mixture of the sample was run twice
    [end] = [n for n in report.optimum.notes if "end of its interval" in n]
    assert f"{end[:1].upper()}{end[1:]}." in page.text["answer"]


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
@pytest.mark.parametrize("width", [1200, 500])
def test_the_table_of_the_answer_fits_the_window(width, tmp_path):
    table = sample_run_table()
    report = make_report(table, 10**12, available=dict.fromkeys(table.domains, 5 * 10**12))
    html = report.html.replace("default-src 'none'", "script-src 'unsafe-inline'").replace("</body>", "<script>const w=document.querySelector('.wide');document.title=`fits ${w.scrollWidth-w.clientWidth}`</script></body>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    seen = subprocess.run(["chromium", "--headless", "--no-sandbox", f"--user-data-dir={tmp_path}/profile", f"--window-size={width},900", "--dump-dom", f"file://{tmp_path}/page.html"], capture_output=True, text=True, timeout=120).stdout
    assert int(re.search(r"<title>fits (-?\d+)</title>", seen)[1]) <= 0
