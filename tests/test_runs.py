"""Records and run tables: read back as written, refused by name when bad."""
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunRecord, RunSpec, RunStore, RunTable, read_run_table, run_table, sample_run_table, write_run_table

SPEC = RunSpec(Mixture(("a", "b"), (640, 640)), "s" * 64, {"model_type": "gpt2"}, {}, 64, 8)
RECORD = RunRecord(SPEC, "base", "finished", losses={"a": 3.25, "b": 4.5}, params=1000)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 10**13), st.integers(0, 10**13), st.floats(0, 20), st.floats(0, 20)), min_size=1, max_size=8), st.booleans())
def test_table_round_trip(tmp_path_factory, rows, optional):
    path = tmp_path_factory.mktemp("t") / "runs.csv"
    n = len(rows)
    extra = {"params": np.arange(n), "seed": np.arange(n), "steps": np.arange(n)} if optional else {}
    table = RunTable(tuple(f"run {i}, \"x3\"" for i in range(n)), ("a", "b c"), ("a", "new"), np.array([r[:2] for r in rows], float), np.array([r[2:] for r in rows]), **extra)
    write_run_table(path, table)
    again = read_run_table(path)
    assert (again.runs, again.domains, again.validation) == (table.runs, table.domains, table.validation)
    assert np.array_equal(again.tokens, table.tokens) and np.array_equal(again.losses, table.losses)
    assert all(np.array_equal(getattr(again, k), v) for k, v in extra.items())


def test_every_prefix_of_a_record_is_refused_and_a_swapped_one_too(tmp_path):
    store = RunStore(tmp_path)
    path = store.put(RECORD)
    text = path.read_text().rstrip()
    for cut in range(0, len(text), 7):
        path.write_text(text[:cut])
        with pytest.raises(InputError, match="delete the file and the run is trained again"):
            store.get(SPEC)
    path.write_text(text)
    assert store.get(SPEC) == RECORD
    path.rename(store.path(replace(SPEC, seed=7)))
    with pytest.raises(InputError, match=f"holds the record of {SPEC.hash}"):
        store.get(replace(SPEC, seed=7))


def test_nan_never_reaches_a_file(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        RunStore(tmp_path).put(replace(RECORD, losses={"a": float("nan")}))
    assert not list(tmp_path.iterdir())


def test_failed_runs_stay_out_of_the_table():
    failed = replace(RECORD, spec=replace(SPEC, seed=1), status="failed", losses={}, reason="diverged")
    assert len(run_table([RECORD, failed])) == 1
    with pytest.raises(InputError, match="no finished run"):
        run_table([failed])


@pytest.mark.parametrize("text, says", [
    ("", "found none"), ("run,tokens.a,loss.a\n\"x,1,2\n", "cannot be read as CSV"), ("run,tokens.a,loss.a\nx,1,2,3\n", "4 fields"), ("run,tokens.a,loss.a\nx,5,\n", "loss.a is"), ("run,tokens.a,loss.a\nx,five,1\n", "tokens.a is 'five'"),
    ("run,tokens.a,loss.a\nx,-1,1\n", "tokens.a is -1"), ("run,tokens.a,loss.a\nx,1,-inf\n", "-inf"), ("run,tokens.a,loss.a\nx,1,1\nx,2,2\n", "twice"),
    ("run,tokens.a,loss.a\nx,1,4.21\ny,2,3.9", "looks cut off, .*end it with a newline"),
    ("run,tokens.a,token.b,loss.a\nx,1,1,1\n", "column token.b is not known; rename it to tokens.b"),
    ("run,tokens.a,tokens.b,loss.a,Losses.b\nx,1,1,1,1\n", "rename it to loss.b"), ("run,tokens.a,Tokens .b,loss.a\nx,1,1,1\n", "rename it to tokens.b"),
    ("tokens.a,loss.a\n1,1\n", "needs the columns"), ("run,tokens.a\nx,1\n", "no loss"), ("run,tokens.a,loss.a\n", "without runs"), ("a\x00b", "needs the columns")])
def test_bad_tables_are_refused_by_name(tmp_path, text, says):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as refusal:
        read_run_table(path)
    assert str(refusal.value).count("bad.csv") == 1 and "\n" not in str(refusal.value)


def test_a_loss_beyond_any_perplexity_is_refused_by_run_and_column():
    "exp(700) is a number still, exp(710) is none."
    table = lambda loss: RunTable(("x", "y"), ("a", "b"), ("a", "b"), np.ones((2, 2)), np.array([[1., 2.], [3., loss]]))
    assert table(700.).losses[1, 1] == 700 and np.isfinite(np.exp(700.))
    for loss, shown in ((701., "701"), (1e308, "1e\\+308")):
        with pytest.raises(InputError, match=f"run 'y': loss.b is {shown}, and its perplexity is more than any number here; give nats per token, or leave the run out"): table(loss)


def test_a_loss_beyond_any_perplexity_is_one_line_of_the_command(tmp_path):
    text = "run,tokens.a,tokens.b,loss.a,loss.b\n" + "".join(f"r{i},{1 + i},{9 - i},{3 - i / 9},{2 + i / 9}\n" for i in range(8)) + "far,5,4,3,1e308\n"
    (tmp_path / "runs.csv").write_text(text)
    done = subprocess.run([sys.executable, "-c", "from autoscale.cli import main; main()", "project", "runs.csv", "--to", "1k"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1 and done.stderr.startswith("autoscale: ")
    assert "runs.csv: run 'far': loss.b is 1e+308" in done.stderr and "Warning" not in done.stderr and "Traceback" not in done.stderr


def test_every_cut_of_a_table_is_refused(tmp_path):
    "A file cut inside its last number is a table with another loss: only the missing end of line shows it."
    write_run_table(tmp_path / "runs.csv", sample_run_table())
    text = (tmp_path / "runs.csv").read_text()
    for cut in range(1, 60):
        (tmp_path / "runs.csv").write_text(text[:-cut])
        with pytest.raises(InputError):
            read_run_table(tmp_path / "runs.csv")


def test_columns_that_merely_look_like_others_are_left_alone(tmp_path):
    (tmp_path / "runs.csv").write_text("run,tokens.a,loss.a,loss_se.a,tokens,loss,tokens_per_second,cost.usd\nx,1,2,3,4,5,6,7\n")
    table = read_run_table(tmp_path / "runs.csv")
    assert (table.domains, table.validation) == (("a",), ("a",)) and table.losses == [[2]]


def test_the_packaged_table_is_two_designs_of_real_runs():
    table = sample_run_table()
    assert len(table) == 26 and len(table.domains) == 6 and set(table.params) == {table.params[0]}
