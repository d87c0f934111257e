"""Records and run tables: read back as written, refused by name when bad."""
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunRecord, RunSpec, RunStore, RunTable, read_paired_tables, read_run_table, run_table, sample_run_table, write_run_table

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


def pair(folder, mixtures, metrics):
    (folder / "mixtures.csv").write_text(mixtures)
    (folder / "metrics.csv").write_text(metrics)
    return folder / "mixtures.csv", folder / "metrics.csv"


def test_tables_as_regmix_publishes_them(tmp_path):
    "Numbers for runs, three decimals that do not sum to 1, another order, domains without a loss, losses without a domain."
    table = read_paired_tables(*pair(tmp_path, "index,train_the_pile_arxiv,train_the_pile_pile_cc,train_the_pile_books\n1,0.333,0.333,0.333\n2,0.1,0.2,0.7\n3,1,0,0\n",
                                     "index,metric/the_pile_pile_cc_val_loss,metric/the_pile_law_val_loss,metric/the_pile_arxiv_val_loss\n2,4.2,4.3,3.1\n1,4.1,4.4,2.9\n9,1,1,1\n"), "1B")
    assert table.runs == ("1", "2") and table.domains == ("train_the_pile_arxiv", "train_the_pile_pile_cc", "train_the_pile_books")
    assert table.validation == ("train_the_pile_pile_cc", "metric/the_pile_law_val_loss", "train_the_pile_arxiv")
    assert table.tokens == pytest.approx(np.array([[1, 1, 1], [.3, .6, 2.1]]) * 1e9 / 3) and table.losses.tolist() == [[4.1, 4.4, 2.9], [4.2, 4.3, 3.1]]
    assert table.notes == ("2 of the runs stand in only one of the two tables and are left out: 3, 9",)


def test_tables_as_olmix_publishes_them(tmp_path):
    "Joined on run_id although the runs have names too, which differ; tokens from a column."
    files = pair(tmp_path, "run_id,name,web:x,web:y,length\na1,first,0.25,0.75,1e9\nb2,second,0.5,0.5,4000000000\n", "run_id,name,index,arc_bpb,mmlu_bpb\nb2,other,0,0.8,1.1\na1,another,1,0.9,1.2\n")
    table = read_paired_tables(*files, "length")
    assert table.runs == ("a1", "b2") and table.domains == ("web:x", "web:y") and table.validation == ("arc_bpb", "mmlu_bpb") and not table.notes
    assert table.tokens.tolist() == [[.25e9, .75e9], [2e9, 2e9]] and table.losses.tolist() == [[.9, 1.2], [.8, 1.1]]
    with pytest.raises(InputError, match=r"no run stands in both .*first.*other"): read_paired_tables(*files, "length", key="name")


def test_tables_written_by_pandas_have_a_column_without_a_name(tmp_path):
    table = read_paired_tables(*pair(tmp_path, ",web,code\n0,0.5,0.5\n1,0.2,0.8\n", ",web,code\n1,3,2\n0,3.5,1.5\n"), 1000)
    assert table.runs == ("0", "1") and table.validation == ("web", "code") and table.losses.tolist() == [[3.5, 1.5], [3, 2]] and table.tokens.tolist() == [[500, 500], [200, 800]]


@pytest.mark.parametrize("mixtures, metrics, says", [
    ("run,a,b\nx,0.5,0.4\n", "run,l\nx,1\n", "mixtures.csv: the weights of run 'x' sum to 0.9, not 1"), ("run,a,b\nx,0.5,0.5\n", "run,l\ny,1\n", "no run stands in both"),
    ("run,a,b\nx,0.5,0.5\nx,0.4,0.6\n", "run,l\nx,1\n", "mixtures.csv: run 'x' stands there twice"), ("run,a,b\nx,0.5,0.5\n", "run,l\nx,nan\n", "metrics.csv: run 'x': l is 'nan'"),
    ("run,a,b\nx,-0.5,1.5\n", "run,l\nx,1\n", "tokens.a is -"), ("run,a,b\nx,0.5,0.5\n", "run\nx\n", "metrics.csv: there is no column beside"), ("run,a,b\nx,0.5,0.5\n", "run,l\nx,1", "metrics.csv: looks cut off"),
    ("", "run,l\nx,1\n", "mixtures.csv"), ("run,a,b\nx,0.5,0.5,1\n", "run,l\nx,1\n", "4 fields")])
def test_bad_pairs_are_refused_by_name(tmp_path, mixtures, metrics, says):
    with pytest.raises(InputError, match=says) as refusal: read_paired_tables(*pair(tmp_path, mixtures, metrics), "1B")
    assert "\n" not in str(refusal.value)


def test_a_column_to_join_on_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.csv: there is no column name to join on; its columns are run, l"):
        read_paired_tables(*pair(tmp_path, "run,name,a,b\nx,y,0.5,0.5\n", "run,l\nx,1\n"), "1B", key="name")
