"The benchmarks: every notebook runs at smoke size and leaves a record, and the room around them counts right. How fast anything is, no test says."
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

from autoscale.bench import _number, alternate, main, paired, read_records, report, row, run_benchmarks, write_record
from autoscale.mixture import InputError
from autoscale.reproduce import execute, parameters_of

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs/bench").glob("bench-*.ipynb"))


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch): monkeypatch.chdir(ROOT)


class Clock:
    "A clock that only the contenders move."
    def __init__(self): self.now, self.called = 0., []
    def __call__(self): return self.now

    def takes(self, name, *seconds):
        "A contender that takes these seconds, call by call; the last one again and again."
        left = list(seconds)
        def f():
            self.called.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
        return f


def test_contenders_take_turns_and_the_warm_up_does_not_count():
    clock = Clock()
    t = paired(clock.takes("a", 50, 1, 2, 4), clock.takes("b", 90, 3, 3, 3), rounds=3, clock=clock)
    assert "".join(clock.called) == "ab" + "ab" * 3
    assert t.ours.tolist() == [1, 2, 4] and t.rival.tolist() == [3, 3, 3] and t.ratio.tolist() == [3, 1.5, .75]


def test_fast_contenders_are_called_often_enough_for_one_reading():
    clock = Clock()
    seconds = alternate({"fast": clock.takes("f", 2**-10), "slow": clock.takes("s", 1)}, rounds=2, shortest=2**-8, clock=clock)
    assert "".join(clock.called) == "fs" + "ffffs" * 2
    assert seconds["fast"].tolist() == [2**-10] * 2 and seconds["slow"].tolist() == [1, 1]


def test_a_row_is_a_median_with_quartiles_and_judges_its_aim():
    one = row("what", [1, 2, 3, 4, 100], "ms", "< 3.5")
    assert (one["value"], one["low"], one["high"], one["repeats"], one["holds"]) == (3, 2, 4, 5, True)
    assert row("what", [1, 2, 3, 4, 100], "ms", "> 3")["holds"] is False
    assert row("what", None, "ms", "> 3") == {"what": "what", "value": None, "unit": "ms", "low": None, "high": None, "repeats": 0, "aim": "> 3", "holds": None, "note": ""}
    with pytest.raises(InputError, match="the aim 'quick' is not a comparison"): row("what", 1, "ms", "quick")


def test_the_table_says_what_the_records_say(tmp_path):
    rows = [row("a thing", [12.344, 12.345, 12.346], "ms", "< 10", note="a remark"), row("a GPU", None, "times"), row("many", 1234567, "tokens/s")]
    record = write_record(tmp_path, "bench-z-things", "How fast are things?", rows, {"size": 3})
    write_record(tmp_path, "bench-a-others", "And others?", [row("else", 1, "s", "> 0")], {})
    assert [r["benchmark"] for r in read_records(tmp_path)] == ["bench-a-others", "bench-z-things"] and read_records(tmp_path)[1] == record
    lines = report(read_records(tmp_path)).splitlines()
    cells = lambda what: [c.strip() for c in next(line for line in lines if line.startswith(f"| {what}")).strip("|").split("|")]
    assert cells("a thing") == ["a thing", "12.3", "ms", "12.3 to 12.3", "3", "< 10", "missed"]
    assert cells("a GPU") == ["a GPU", "not measured", "times", "", "0", "", ""]
    assert cells("many") == ["many", "1,234,567", "tokens/s", "", "1", "", ""] and cells("else")[-1] == "holds"
    assert "- a thing: a remark" in lines and lines.index("## bench-a-others") < lines.index("## bench-z-things")
    assert any(record["machine"]["processor"] in line and record["date"] in line and f"numpy {np.__version__}" in line for line in lines)


def test_a_damaged_record_is_named(tmp_path):
    path = tmp_path / "bench-a.json"
    write_record(tmp_path, "bench-a", "?", [row("x", 1, "s")], {})
    text = path.read_text()
    for damaged in (text[:len(text) // 2], "7", "{}", "[]"):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"bench-a\.json: not a benchmark's record"): read_records(tmp_path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory): return tmp_path_factory.mktemp("kept")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_every_notebook_runs_at_smoke_size_and_leaves_a_record(notebook, kept, tmp_path):
    given = {"smoke": True, "out": str(tmp_path), "build": str(kept)}
    assert {"smoke", "out"} <= parameters_of(notebook).keys() and parameters_of(notebook)["smoke"].startswith("False")
    execute(notebook, kept / notebook.name, {k: v for k, v in given.items() if k in parameters_of(notebook)}, show=False)
    record, = read_records(tmp_path)
    assert record["benchmark"] == notebook.stem and record["parameters"]["smoke"] is True and record["rows"]
    for one in record["rows"]:
        assert set(one) == {"what", "value", "unit", "low", "high", "repeats", "aim", "holds", "note"}
        assert one["value"] is None or (one["low"] <= one["value"] <= one["high"] and one["repeats"] >= 1)
    assert len({one["what"] for one in record["rows"]}) == len(record["rows"])
    assert all((tmp_path / f"{notebook.stem}.{kind}").stat().st_size > 100 for kind in ("png", "svg", "csv"))


def benchmark(folder, name, body):
    cells = [nbformat.v4.new_code_cell("smoke = False\nout = '.'", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(body)]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}})
    folder.mkdir(exist_ok=True)
    nbformat.write(nb, folder / f"{name}.ipynb")


def test_a_failing_benchmark_is_named_and_the_others_still_run(tmp_path, monkeypatch, capsys):
    good = "import os\nfrom autoscale.bench import row, write_record\nwrite_record(out, 'bench-{0}', '?', [row('process', os.getpid(), '')], {{'smoke': smoke}})"
    folder, into = tmp_path / "nbs/bench", tmp_path / "made"
    (tmp_path / "nbs/paper/profiles").mkdir(parents=True)
    for name in "ac": benchmark(folder, f"bench-{name}", good.format(name))
    benchmark(folder, "bench-b", "1 / 0")
    monkeypatch.chdir(tmp_path)
    assert main(["--smoke", "--into", str(into)]) == 1
    said = capsys.readouterr().out
    assert [r["benchmark"] for r in read_records(into / "figures")] == ["bench-a", "bench-c"]
    assert "bench-b: FAILED" in said and "ZeroDivisionError" in said.splitlines()[-1] and "bench-b" in said.splitlines()[-1]
    first, second = (r["rows"][0]["value"] for r in read_records(into / "figures"))
    assert len({first, second, os.getpid()}) == 3, "each in a process of its own"
    assert all(r["parameters"]["smoke"] is True for r in read_records(into / "figures"))
    assert "## bench-c" in (into / "figures/bench.md").read_text()
    assert main(["--only", "bench-c", "--into", str(tmp_path / "again")]) == 0
    assert [p.stem for p in (tmp_path / "again/figures").glob("*.json")] == ["bench-c"]
    with pytest.raises(InputError, match="no benchmark has 'slover' in its name; there are bench-a, bench-b, bench-c"): run_benchmarks("slover")


def test_the_command_needs_no_torch_and_refuses_in_one_line(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise ModuleNotFoundError('torch is not installed here', name='torch')")
    command = [sys.executable, "-m", "autoscale.bench", "--only", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and done.stderr.startswith("bench: no benchmark has 'nothing' in its name") and len(done.stderr.splitlines()) == 1


def test_records_hold_no_infinity(tmp_path):
    with pytest.raises(ValueError): write_record(tmp_path, "bench-a", "?", [{**row("x", 1, "s"), "value": float("inf")}], {})
    assert not list(tmp_path.iterdir())


def test_the_readme_quotes_the_records():
    "The README's table of speed holds every row that has an aim, met or missed, and each of its rows stands in a committed record: median, spread, aim and verdict."
    records = {r["benchmark"][6]: r["rows"] for r in read_records(ROOT / "figures/bench")}
    section = (ROOT / "README.md").read_text().partition("## Speed")[2].partition("\n## ")[0]
    quoted = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in section.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    def as_quoted(letter, row):
        spread = f"{_number(row['low'])} to {_number(row['high'])}" if row["repeats"] > 1 else ""
        return letter, row["what"], _number(row["value"]), row["unit"], spread, row["aim"] or "", {True: "holds", False: "missed", None: ""}[row["holds"]]
    every = {as_quoted(letter, row): bool(row["aim"]) for letter, rows in records.items() for row in rows}
    assert not set(quoted) - set(every), "not in the records"
    assert not {row for row, aimed in every.items() if aimed} - set(quoted), "an aim that the README does not tell of"
    assert {q[0] for q in quoted} == set(records)
