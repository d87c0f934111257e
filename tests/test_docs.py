"The pages of the site that are written by hand: their commands and their Python run, their links lead somewhere, their numbers are those of the committed tables."
import os, re, shlex, subprocess, sys
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from autoscale.cli import app
from autoscale.imports import read_runs
from autoscale.runs import RunStore

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT/"docs").glob("*.md"))
GENERATED = {"command-line", "api/index", "paper/index", "figures/index"}  # by docs/stage.py

def name_of(path: Path) -> str: return path.name
def text_of(name: str) -> str: return (ROOT/"docs"/f"{name}.md").read_text(encoding="utf-8")

def blocks(name: str) -> list[tuple[str, str, bool]]:  # (language, text, whether it follows the block before at once), in their order
    found, end, text = [], 0, text_of(name)
    for block in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        found.append((block[1], block[2], not text[end:block.start()].strip())); end = block.end()
    return found

# ---- commands and code ----

NUMBER = re.compile(r"[-\d.,]*\d[-\d.,e]*")

def agrees(shown: str, said: str) -> bool:
    """Every line of a page's output among those of the command: its words, and its numbers within one unit of a weight's last printed digit, 1e-4 (of 10M tokens 1,000), for another BLAS rounds
    otherwise and an optimum is flat. Of a certificate only the words: it is what the search left over, 1e-6 on one machine and 2e-6 on another."""
    masked = lambda line: " ".join(NUMBER.sub("#", line).split())
    values = lambda line: [float(n.strip(",.").replace(",", "")) for n in NUMBER.findall(line)]
    lines = {masked(line): line for line in said.strip().splitlines()}
    close = lambda a, b: abs(a - b) <= (1000 if b >= 10_000 else 1.01e-4)
    return all(masked(line) in lines and (line.startswith("certificate") or all(map(close, values(line), values(lines[masked(line)])))) for line in shown.strip().splitlines())

PARSED = {"reproduce", "sweep", "corpus", "report"}  # not run here: they train, fetch text, or fit every law (tests/test_report.py)

def parse(words: list[str]):
    "Raises where the command line does not know a command, an option or a value."
    command, context = typer.main.get_command(app), None
    while hasattr(command, "commands"): command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, words, parent=context)

@pytest.mark.parametrize("name", ["quickstart", "bring-your-own-runs", "reproduce-the-paper"])
def test_commands_and_code_of_a_page_run_in_their_order(name, tmp_path, monkeypatch):
    targets, ran = set(re.findall(r"^([a-z]+):", (ROOT/"Makefile").read_text(encoding="utf-8"), re.MULTILINE)), []
    monkeypatch.chdir(tmp_path)
    last = ""
    for language, text, at_once in blocks(name):
        if language == "python":
            exec(compile(text, f"{name}.md", "exec"), {}); ran.append("python")
        elif language == "text" and at_once: assert agrees(text, last), f"{name}.md shows\n{text}\nand the command says\n{last}"
        elif language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line)
                if words[0] == "make": assert words[1] in targets
                elif words[0] == "autoscale" and (words[1] in PARSED or name == "reproduce-the-paper"): parse(words[1:])
                elif words[0] == "autoscale":
                    done = CliRunner().invoke(app, words[1:])
                    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception}"
                    last = done.stdout; ran.append(words[1])
                else: assert words[:2] == ["pip", "install"]
    if name != "reproduce-the-paper": assert {"python", "project", "compare", "export"} <= set(ran)

def test_output_that_is_no_longer_the_commands_is_seen():
    said = "| c4 | 0.0537 | 0.0000 to 0.2628 | 536,974 |\ngain over uniform: 0.0155 nats per token\ncertificate: by more than 1.2e-06\n"
    assert agrees(said, said) and agrees("| c4 |  0.0538 | 0.0000 to 0.2627 | 537,400 |\n", said) and agrees("certificate: by more than 2.3e-06\n", said)
    for other in ("| c4 | 0.0539 | 0.0000 to 0.2628 | 536,974 |", "| c4 | 0.0537 | 0.0000 to 0.2628 | 538,974 |", "gain over uniform: -0.0155 nats per token", "gain over natural: 0.0155 nats per token"): assert not agrees(other, said)

def test_a_command_that_is_not_known_is_seen():
    with pytest.raises(Exception, match="--tow"): parse(["project", "sample", "--tow", "10M"])

def test_the_run_table_on_the_page_is_one(tmp_path):
    path = tmp_path/"runs.csv"
    path.write_text(next(text for language, text, _ in blocks("bring-your-own-runs") if language == "text"), encoding="utf-8")
    table = read_runs(path)
    assert (len(table), table.domains) == (2, ("web", "code", "books"))

# ---- links ----

@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    bare = re.sub(r"```.*?```|`[^`\n]*`(?!<)", "", text, flags=re.DOTALL)
    links = [a.split("#")[0] for a in re.findall(r"\]\(([^)\s]+)\)", bare)]
    assert links and not [a for a in links if not (page.parent/a).exists()]
    roles = {re.sub(r".*<(.*)>", r"\1", target).strip("/") for target in re.findall(r"\{doc\}`([^`]+)`", text)}
    assert roles <= GENERATED

def test_every_page_is_in_a_list_of_contents():
    listed = re.findall(r"^[\w/*-]+$", "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", text_of("index"), re.DOTALL)), re.MULTILINE)
    assert {p.stem for p in PAGES} - {"index"} <= set(listed)

# ---- numbers of choosing-scales-and-runs ----

def shown(table: str) -> list[list[str]]:
    "The rows of the table below its marker, without the heading."
    text = text_of("choosing-scales-and-runs")
    lines = text[text.index(f"<!-- table {table} -->"):].splitlines()[1:]
    rows = []
    for line in map(str.strip, lines):
        if not line.startswith("|"): break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]

def committed(path: str) -> pd.DataFrame: return pd.read_csv(ROOT/"figures"/path)
def percent(share: float, digits: int = 1) -> str: return f"{100 * share:.{digits}f}"

def test_designs_are_those_of_the_study():
    study = committed("truth/study-design.csv").query("domains == 7").set_index("design")
    assert set(study.worlds) == {72}
    rows = shown("designs")
    assert len(rows) == 9 and rows == [[d, str(s.runs), f"{s.spent:.1f}", percent(s["mean"]), percent(s.p90)] for d, s in ((r[0], study.loc[r[0]]) for r in rows)]
    mean = study["mean"]
    assert mean["half at both"] == min(mean[r[0]] for r in rows)
    saved = 1 - study.spent["full, enlarged at the larger"] / study.spent["full at both, factor 3"]
    assert .3 < saved < .35 and percent(mean["full, enlarged at the larger"]) == percent(mean["full at both, factor 3"])
    assert mean["2m+1 random at both"] < mean["m random at both, twice"] and abs(mean["4m random at both"] - mean["2m+1 random at both"]) < .003

def test_what_is_enough_is_that_of_the_study():
    paper = "paper's design: total (%)"
    study = committed("truth/study-design-enough.csv").set_index(["domains", "target's cost", "runs made in"])
    chosen = [(m, cost, study.loc[m, cost, "one batch"]) for m in (3, 7, 16) for cost in (30, 3000)]
    assert shown("enough") == [[str(m), f"{cost:,}", s.enough, str(s.runs), f"{s['total (%)']:.1f}", f"{s[paper]:.1f}", f"{s['uniform weights']:.1f}"] for m, cost, s in chosen]

def test_waste_by_noise_is_that_of_the_study():
    study = committed("truth/study-truth.csv").query("domains == 7")
    def cell(noise, method):
        mean = study[(study.noise == noise) & (study.method == method)].set_index("form")["mean"]
        assert len(mean) == 6
        return f"{percent(mean['transfer'])} ({percent(mean.drop('transfer').mean())})"
    assert set(study.worlds) == {12}
    assert shown("noise") == [[f"{noise:g}", *(cell(noise, m) for m in ("uniform", "DDO, larger scale", "projection", "joint"))] for noise in (0, .002, .005, .01, .02)]
    hurts = study[(study.form == "hurts") & (study.noise == .005)].set_index("method")["mean"]
    assert f"wastes {percent(hurts['joint'])}% at 0.005 nats (uniform weights {percent(hurts['uniform'])}%)" in text_of("choosing-scales-and-runs")

def test_intervals_are_those_of_the_study():
    joint = committed("truth/study-truth.csv").query("domains == 7 and noise == .005 and method == 'joint'").set_index("form")
    forms = ("transfer", "capacity", "exponential", "skills", "hurts", "length")
    assert shown("intervals") == [[f"{f} (the law's own)" if f == "transfer" else f, *(percent(joint.loc[f, c], 0) for c in ("gain_inside", "loss_inside", "weights_inside"))] for f in forms]

def test_repetition_is_that_of_the_study():
    pairs = committed("scarce/study-repetition-pairs.csv").set_index(["epochs", "unique"])["mean"]
    assert set(committed("scarce/study-repetition-pairs.csv")["count"]) == {2}
    assert shown("repetition") == [[str(e), *(f"{pairs[e, u]:.3f}" if (e, u) in pairs else "" for u in (32_000, 128_000))] for e in (2, 4, 8, 16)]

def test_noise_of_mini_is_that_of_the_study():
    study = committed("mini/study-noise.csv").query("tokens == 258048").set_index("setting")["sd_of_mean"]
    before, after = study["Qwen3, learning rate 0.004, warm-up 0.3"], study[next(s for s in study.index if s.startswith("chosen: "))]
    assert f"deviation of {before:.4f} nats between seeds on its mean loss at 258 thousand tokens before, and {after:.4f} after" in text_of("choosing-scales-and-runs")

def test_target_runs_of_mini_ended_as_readme_and_page_say():
    table = [line for line in (ROOT/"figures/mini/figure-03-saved.md").read_text(encoding="utf-8").splitlines() if "not run" not in line]
    assert len(table) == 2 + len(committed("mini/figure-03-saved.csv"))
    for text in ((ROOT/"README.md").read_text(encoding="utf-8"), text_of("reproduce-the-paper")):
        assert all(line in text for line in table)

def test_target_runs_of_the_encoder_ended_as_readme_says():
    text = (ROOT/"README.md").read_text(encoding="utf-8").split("### And an encoder?")[1].split("\n### ")[0]
    table = (ROOT/"figures/encoder/figure-10-saved.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 6 and "\n".join(table) in text
    saved, change = committed("encoder/figure-10-saved.csv").set_index(["target", "method"]), committed("encoder/table-08-change.csv").set_index("weights").loc["DDO, larger scale, ours"]
    assert list(saved.index) == [(t, m) for t, order in ((1658880, ("AutoScale", "DDO, larger scale", "uniform")), (6635520, ("uniform", "DDO, larger scale", "AutoScale"))) for m in order]
    for d in ("news", "pubmed", "github"):
        bits, error = change[d].split(" ± ")
        assert f"{d} {float(bits):.3f} ± {float(error):.3f}" in text, d

def test_the_prose_about_the_comparison_says_what_the_tables_say():
    text = (ROOT/"README.md").read_text(encoding="utf-8").split("### Does the projected mixture win at the target?")[1].split("\n### ")[0]
    seeds, cost, laws, tasks = (committed(f"mini/{name}.csv") for name in ("stage-4-seeds", "table-05-noise", "table-05-laws", "stage-6-tasks"))
    wiki = seeds.set_index("domain").loc["wikipedia"]
    alone = cost[cost.iloc[:, 0].str.contains("alone")].bimix
    means = cost.set_index(cost.columns[0]).loc["mean of single seeds"]
    ranks = laws.set_index("law")["rank correlation"]
    bits = tasks.groupby(["method", "seed"]).bits_per_byte.mean().unstack(0)
    without = tasks[tasks.task != "boolq"].groupby(["method", "seed"]).bits_per_byte.mean().unstack(0)
    def spread(x): return f"{abs(x.mean()):.3f} ± {x.std(ddof=1) / len(x) ** .5:.3f}"
    target = [r for r in RunStore(ROOT/"nbs/paper/records/mini/target") if r.status == "finished"]
    most = {r.name.split(" @")[0]: max(r.epochs.values()) for r in target}
    sciq = sorted(tasks[(tasks.method == "DoReMi") & (tasks.task == "sciq")].accuracy)
    for said in (f"standard deviation of {wiki.iloc[3]:.3f}", f"{wiki.iloc[4]:.3f} of that is left", f"on a weight of {wiki.weight:.3f}", f"{alone.min():.3f} to {alone.max():.3f} nats behind uniform weights, {means.bimix:.3f} on average",
                 f"by the joint law {means.joint:.3f} and by the regression {means.regression:.3f}", f"put them {-means.exponential:.3f} and {-means['log-linear']:.3f} ahead",
                 f"{ranks.bimix:.2f}; the regression {ranks.regression:.2f}, the joint law {ranks.joint:.2f}", f"{spread(bits.AutoScale)} against {spread(bits.uniform)} for uniform", f"{spread(without.AutoScale - without.uniform)} below uniform",
                 f"({sciq[1]:.0%} and {sciq[2]:.0%}; the third {sciq[0]:.0%})", f"({most.pop('RegMix, linear'):.1f} epochs of arxiv)", f"at most {max(most.values()):.2f} of a domain", f"took {sum(r.seconds for r in target) / 2 / 3600:.1f} hours on two cores"):
        assert said in text, said

def test_nothing_is_left_to_be_filled_in():
    for path in (ROOT/"README.md", ROOT/"DECISIONS.md", *PAGES): assert not re.search(r"@@|TODO|FIXME|XXX", path.read_text(encoding="utf-8")), path

# ---- the build ----

def outside(html: Path) -> set[str]:
    "Addresses that the page would load something from."
    text = html.read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|img|iframe|source|link|audio|video|object|embed)\b[^>]*?(?:src|href|data)=[\"']([^\"']+)", text) + re.findall(r"@import[^;]*|url\(([^)]+)\)", text)
    return {a for a in loaded if re.match(r"[\"']?(?:https?:)?//", a)}

def test_site_builds_without_a_warning_and_loads_nothing_from_outside(tmp_path):
    "Everything but the notebooks that `autoscale reproduce` executes, which a fresh checkout has not."
    def python(*arguments): return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    staged = python("docs/stage.py", tmp_path/"source", "--without-executed")
    assert staged.returncode == 0, staged.stderr
    built = python("-m", "sphinx", "-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-c", "docs", "-d", tmp_path/"doctrees", tmp_path/"source", tmp_path/"html")
    assert (built.returncode, built.stderr) == (0, "")
    pages = {str(p.relative_to(tmp_path/"html")): p for p in (tmp_path/"html").rglob("*.html")}
    assert {"index.html", "quickstart.html", "nbs/08_laws.html", "api/laws.html", "command-line.html", "figures/mini/index.html", "README.html"} <= pages.keys()
    assert not {name: found for name, path in pages.items() if (found := outside(path))}
    styles = [p for p in (tmp_path/"html").rglob("*.css") if re.search(r"url\([\"']?(https?:)?//|@import", p.read_text(encoding="utf-8"))]
    assert not styles
    laws = pages["api/laws.html"].read_text(encoding="utf-8")
    assert "unique tokens that would teach as much" in laws  # the comment on a result's line
    assert "infinite where there is no limit" in laws  # and on a parameter's
    mixture = re.sub(r"<[^>]*>", "", pages["api/mixture.html"].read_text(encoding="utf-8"))
    assert "mode (str) – “w” for text (UTF-8), “wb” for bytes" in mixture and "epochs (tuple[float, ...] | None) – passes over the available tokens" in mixture
    chapter = pages["nbs/08_laws.html"].read_text(encoding="utf-8")
    assert "#| " not in re.sub(r"<[^>]*>", "", chapter) and "nbdev_export" not in chapter
    assert 'class="math' in chapter and 'src="../_static/mathjax.js"' in re.sub(r"\?\?v=\w+", "", chapter)
    assert (tmp_path/"html/_static/mathjax.js").stat().st_size > 1e6
