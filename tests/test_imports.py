"""Run tables from elsewhere: the same table through every door, and one line with the way out where something does not fit."""
import json
import pickle
import sqlite3
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.imports import read_export, read_mapping, read_paired_tables, read_runs
from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunRecord, RunSpec, RunStore, RunTable, run_table, sample_run_table, write_run_table

SAMPLE = sample_run_table()
MAPPING = {"run": "name", "weights": "config.mixture.{domain}", "total": "config.total_tokens", "loss": "eval/{domain}/loss"}


def refusal(*arguments, **options) -> str:
    with pytest.raises(InputError) as refused: read_runs(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def dumped(runs=range(3)) -> list[dict]:
    "As a loop over wandb.Api().runs writes them."
    total = SAMPLE.tokens.sum(1)
    return [{"name": SAMPLE.runs[i], "id": f"id{i}", "state": "finished",
             "config": {"mixture": dict(zip(SAMPLE.domains, (SAMPLE.tokens[i] / total[i]).tolist())), "total_tokens": int(total[i]), "seed": int(SAMPLE.seed[i]), "model": {"layers": 2}},
             "summary": {**{f"eval/{v}/loss": float(x) for v, x in zip(SAMPLE.validation, SAMPLE.losses[i])}, "train/loss": 4., "_step": 256, "_wandb": {"runtime": 3}}} for i in runs]


def same(table: RunTable, runs=3):
    assert table.runs == SAMPLE.runs[:runs] and table.domains == SAMPLE.domains and table.validation == SAMPLE.validation
    assert np.array_equal(table.tokens, SAMPLE.tokens[:runs]) and np.array_equal(table.losses, SAMPLE.losses[:runs])  # weights times a total are whole tokens again


# ---- the contract, in other clothes ----

def test_the_sample_and_the_contract(tmp_path):
    write_run_table(tmp_path / "runs.csv", SAMPLE)
    for table in (read_runs("sample"), read_runs(tmp_path / "runs.csv"), read_runs(str(tmp_path / "runs.csv"))):
        same(table, 26)
        assert np.array_equal(table.seed, SAMPLE.seed) and np.array_equal(table.params, SAMPLE.params) and table.notes == ()
    assert "leave --columns and --tokens out" in refusal("sample", tokens="1B")
    assert "leave --tokens out" in refusal(tmp_path / "runs.csv", tokens="1B")


@pytest.mark.parametrize("delimiter, called", [(";", "semicolons"), ("\t", "tabs")])
def test_another_delimiter_is_read_and_noted(tmp_path, delimiter, called):
    write_run_table(tmp_path / "runs.csv", SAMPLE)
    written(tmp_path / "other.csv", (tmp_path / "runs.csv").read_text().replace(",", delimiter))
    table = read_runs(tmp_path / "other.csv")
    same(table, 26)
    assert table.notes == (f"the cells are separated by {called}, not commas; they were read so",)


def test_parquet_is_the_same_table_whole_or_not_at_all(tmp_path):
    write_run_table(tmp_path / "runs.csv", SAMPLE)
    pd.read_csv(tmp_path / "runs.csv").to_parquet(tmp_path / "runs.parquet")
    same(read_runs(tmp_path / "runs.parquet"), 26)
    data = (tmp_path / "runs.parquet").read_bytes()
    for end in (5, 1000, len(data) - 1):
        (tmp_path / "cut.parquet").write_bytes(data[:end])
        assert "cut.parquet: is a Parquet file that is damaged or cut off" in refusal(tmp_path / "cut.parquet")
    pd.DataFrame({"run": ["x", "y"], "tokens.a": [1, None], "loss.a": [1., 2.]}).to_parquet(tmp_path / "hole.parquet")
    assert "run 'y': tokens.a is ''" in refusal(tmp_path / "hole.parquet")


def test_parquet_without_pyarrow_names_the_package(tmp_path, monkeypatch):
    pd.DataFrame({"run": ["x"]}).to_parquet(tmp_path / "runs.parquet")
    for module in [m for m in sys.modules if m.split(".")[0] == "pyarrow"]: monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "needs the package 'pyarrow'; run: pip install pyarrow" in refusal(tmp_path / "runs.parquet")


def test_a_hundred_thousand_runs_are_a_table(tmp_path):
    n = 100_000
    pd.DataFrame({"run": [f"run {i}" for i in range(n)], **{f"tokens.{d}": np.arange(1, n + 1) for d in "abc"}, **{f"loss.{d}": np.linspace(3, 4, n) for d in "abc"}}).to_csv(tmp_path / "runs.csv", index=False)
    assert len(read_runs(tmp_path / "runs.csv")) == n
    text = (tmp_path / "runs.csv").read_text()
    assert "run 'run 99999': loss.c is 'nan'" in refusal(written(tmp_path / "nan.csv", text.replace(",4.0\n", ",nan\n")))


def test_run_records_are_a_table(tmp_path):
    record = RunRecord(RunSpec(Mixture(("a", "b"), (640, 640)), "s" * 64, {"model_type": "gpt2"}, {}, 64, 8), "base", "finished", losses={"a": 3., "b": 2.}, params=5)
    RunStore(tmp_path).put(record)
    assert read_runs(tmp_path).runs == run_table([record]).runs


# ---- exports ----

@pytest.mark.parametrize("columns", [None, MAPPING, {**MAPPING, "weights": "mixture.{domain}", "loss": {v: f"summary.eval/{v}/loss" for v in SAMPLE.validation}}])
def test_json_lines_of_configs_and_summaries(tmp_path, columns):
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, dumped())))
    (tmp_path / "runs.json").write_text(json.dumps(dumped()))
    (tmp_path / "folder").mkdir()
    for i, run in enumerate(dumped()): (tmp_path / "folder" / f"{i}.json").write_text(json.dumps(run))
    for place in ("runs.jsonl", "runs.json", "folder"): same(read_runs(tmp_path / place, columns))
    assert "is it cut off?" in refusal(written(tmp_path / "cut.jsonl", (tmp_path / "runs.jsonl").read_text()[:-9]))


def test_folders_with_a_config_and_a_summary_each(tmp_path):
    "As older versions of wandb leave them: every value of the configuration wrapped."
    for i, run in enumerate(dumped()):
        (files := tmp_path / "wandb" / f"run-{i}" / "files").mkdir(parents=True)
        (files / "config.yaml").write_text(yaml.safe_dump({"wandb_version": 1, **{k: {"desc": None, "value": v} for k, v in run["config"].items()}}, sort_keys=False))
        (files / "wandb-summary.json").write_text(json.dumps(run["summary"]))
    table = read_runs(tmp_path / "wandb")
    assert table.runs == ("run-0", "run-1", "run-2") and np.array_equal(table.losses, SAMPLE.losses[:3]) and table.tokens == pytest.approx(SAMPLE.tokens[:3], rel=1e-12)


def test_a_table_of_dictionaries_as_pandas_writes_it(tmp_path):
    pd.DataFrame(dumped()).to_csv(tmp_path / "project.csv")
    same(read_runs(tmp_path / "project.csv"))
    text = (tmp_path / "project.csv").read_text().replace(repr(float(SAMPLE.losses[1, 0])), "nan")
    assert f"run '{SAMPLE.runs[1]}'" in refusal(written(tmp_path / "nan.csv", text)) and "'nan'" in refusal(tmp_path / "nan.csv")
    assert "neither JSON nor a dictionary" in refusal(written(tmp_path / "code.csv", 'name,config\nx,"{1: __import__(\'os\')}"\n'))


def test_the_table_of_the_web_page(tmp_path):
    "No prefixes, everything quoted, states; runs that did not end are left out by name."
    rows = [{"Name": r["name"], "State": "finished", **{f"mixture.{d}": w for d, w in r["config"]["mixture"].items()}, "total_tokens": r["config"]["total_tokens"], **{k: v for k, v in r["summary"].items() if k[0] != "_"}} for r in dumped(range(4))]
    rows[3]["State"] = "crashed"
    rows.append({**rows[0], "Name": "early", **{k: "" for k in rows[0] if k.startswith("eval/books")}})
    pd.DataFrame(rows).to_csv(tmp_path / "web.csv", index=False, quoting=1)
    table = read_runs(tmp_path / "web.csv", columns=MAPPING)
    same(table)
    assert f"1 of 5 runs left out, in the state crashed: {SAMPLE.runs[3]}" in table.notes and "1 of 5 runs left out, without a final loss of books: early" in table.notes
    assumed = read_runs(tmp_path / "web.csv")
    same(assumed)
    assert "a table of W&B's web page with the mapping" in assumed.notes[0] and "train/loss" not in " ".join(assumed.notes[1:])


def test_wandb_offline_runs(tmp_path, monkeypatch):
    "Also a run in two pieces, one that failed, and a file that ends in the middle of a record."
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline"); monkeypatch.setenv("WANDB_SILENT", "true")
    def log(run, piece, code=0, steps=(10, 20)):
        with_ = wandb.init(project="p", name=run["name"], id=run["id"], dir=tmp_path / piece, config=run["config"], reinit="create_new")
        for step in steps: with_.log({k: v + (20 - step) for k, v in run["summary"].items() if k.startswith("eval")}, step=step)
        with_.finish(exit_code=code)
    for piece in ("a", "b"): (tmp_path / piece).mkdir()
    runs = dumped(range(4))
    log(runs[0], "a", code=1, steps=(10,)); log(runs[0], "b", steps=(20,)); log(runs[1], "b"); log(runs[2], "b"); log(runs[3], "b", code=1)
    wandb.teardown()  # until here its service may still be writing
    table = read_runs(tmp_path)
    same(table)
    assert f"1 of 4 runs left out, in the state failed: {SAMPLE.runs[3]}" in table.notes
    file = next((tmp_path / "b").rglob("run-id1.wandb"))
    file.write_bytes(file.read_bytes()[:-40])
    (tmp_path / "b/run-new.wandb").write_bytes(file.read_bytes()[:7])
    notes = read_runs(tmp_path).notes
    assert f"1 of 4 runs left out, in the state running: {SAMPLE.runs[1]}" in notes and "1 files hold no run yet, still being written or killed at once: run-new.wandb" in notes
    monkeypatch.setitem(sys.modules, "wandb", None); monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    assert "needs the package 'wandb'; run: pip install" in refusal(tmp_path) and "[track]" in refusal(tmp_path)


def offline(path: Path, records) -> Path:
    "W&B's file of an offline run: a head of 7 bytes, then records in blocks of 32,768 bytes as LevelDB's log has them; what is left of a block below 7 bytes is padding."
    data = bytearray(b":W&B" + struct.pack("<HB", 0xBEE1, 0))
    for record in records:
        rest, begun = record.SerializeToString(), False
        while not begun or rest:
            if (room := 32768 - len(data) % 32768) < 7: data += bytes(room); room = 32768
            part, rest = rest[:room - 7], rest[room - 7:]
            kind = (3 if begun else 2) if rest else 4 if begun else 1
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part; begun = True
    path.write_bytes(data)
    return path


def logged(i: int, seconds: int = 0, fill: int = 0):
    "The records of a run whose losses are measured at step 10 and another metric, in a record of three blocks, at step 20; `fill` bytes stand before that."
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    run, config, summary, first, second, end = (internal.Record() for _ in range(6))
    run.run.run_id, run.run.display_name, run.run.start_time.seconds = f"id{i}", SAMPLE.runs[i], seconds
    for key, value in dumped([i])[0]["config"].items(): (config.config if key == "total_tokens" else run.run.config).update.add(key=key, value_json=json.dumps(value))  # a part of it said later
    for key, value in dumped([i])[0]["summary"].items():
        summary.summary.update.add(key=key, value_json=json.dumps(value))
        if key.startswith("eval/"): first.history.item.add(key=key, value_json=json.dumps(value))
    first.history.step.num, second.history.step.num = 10, 20
    first.history.item.add(key="text", value_json=json.dumps("x" * fill)); second.history.item.add(key="train/loss", value_json=json.dumps("y" * 70_000))
    end.exit.exit_code = 0
    return [run, config, summary, first, second, end]


def test_records_at_the_end_of_a_block(tmp_path):
    "A record that ends 0 to 8 bytes before its block does: below 7 the rest is padding, at 7 the next record begins with a part of no bytes. No record takes over what is in the one before."
    file, fill = tmp_path / "run.wandb", 20_000
    full = fill + 32768 - offline(file, logged(0, fill=fill)[:4]).stat().st_size
    for left in range(9):
        assert offline(file, logged(0, fill=full - left)[:4]).stat().st_size == 32768 - left
        table = read_runs(offline(file, logged(0, fill=full - left)))
        same(table, 1)
        assert f"1 of the runs went on after their losses were last measured: {SAMPLE.runs[0]}" in table.notes


def test_offline_runs_stand_in_the_order_in_which_they_began(tmp_path):
    for name, i, began in (("a", 2, 300), ("b", 0, 100), ("c", 1, 200)): offline(tmp_path / f"{name}.wandb", logged(i, began))
    same(read_runs(tmp_path))


def test_a_damaged_offline_run_is_named(tmp_path):
    "Bytes turned over in the middle of a record, in a file whose length and other records are as they were."
    good = offline(tmp_path / "run.wandb", logged(0)).read_bytes()
    same(read_runs(tmp_path), 1)
    at = good.index(b"eval/")
    for path in (tmp_path / "run.wandb", tmp_path):
        (tmp_path / "run.wandb").write_bytes(good[:at - 4] + bytes(255 - b for b in good[at - 4:at + 8]) + good[at + 8:])
        assert "run.wandb is damaged before its byte" in refusal(path) and "leave the file out" in refusal(path)


def test_no_byte_of_an_offline_run_changes_without_a_word(tmp_path):
    good = offline(tmp_path / "run.wandb", logged(0)).read_bytes()
    table = read_runs(tmp_path)
    for at in range(7, len(good), 61):  # every place in a record's head and body in turn
        (tmp_path / "run.wandb").write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1:])
        with pytest.raises(InputError): read_runs(tmp_path)
    (tmp_path / "run.wandb").write_bytes(good)
    assert np.array_equal(read_runs(tmp_path).losses, table.losses)


def test_tensorboard_events(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter
    for run in dumped():
        with SummaryWriter(tmp_path / "boards" / run["name"].replace("/", "_")) as writer:
            writer.add_hparams({f"mixture.{d}": w for d, w in run["config"]["mixture"].items()} | {"total_tokens": run["config"]["total_tokens"]}, {})
            for k, v in run["summary"].items():
                if k.startswith("eval"): writer.add_scalar(k, v + 1, 10); writer.add_scalar(k, v, 20)
            writer.add_scalar("late/other", 1., 25)
            writer.add_scalars("ppl", {"wikipedia": 9.}, 20)
    table = read_runs(tmp_path / "boards", {**MAPPING, "run": "name"})
    order, rows = [table.domains.index(d) for d in SAMPLE.domains], [table.runs.index(r.replace("/", "_")) for r in SAMPLE.runs[:3]]
    assert table.tokens[rows][:, order] == pytest.approx(SAMPLE.tokens[:3], rel=1e-12) and np.array_equal(table.losses[rows][:, order], SAMPLE.losses[:3].astype(np.float32))
    assert any("3 of the runs went on after their losses were last measured" in n for n in table.notes) and any("look like losses: summary.ppl/wikipedia" in n for n in table.notes)
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    assert "needs the package 'tensorboard'; run: pip install" in refusal(tmp_path / "boards")


def test_trackio(tmp_path):
    "Its database as version 0.43.0 wrote it, its Parquet as its export writes it; nothing in the folder changes."
    base = sqlite3.connect(tmp_path / "proxies.db")
    base.executescript((Path(__file__).parent / "data/trackio-0.43.0.sql").read_text())
    rows = {t: pd.read_sql(f"select * from {t}", base) for t in ("metrics", "configs")}
    base.close()
    before = (tmp_path / "proxies.db").read_bytes()
    tables = [read_runs(tmp_path / "proxies.db"), read_runs(tmp_path)]
    assert (tmp_path / "proxies.db").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["proxies.db"]
    for name, cell, file in (("metrics", "metrics", "proxies.parquet"), ("configs", "config", "proxies_configs.parquet")):
        pd.DataFrame([{k: v for k, v in row.items() if k != cell} | json.loads(row[cell]) for row in rows[name].to_dict("records")]).to_parquet(tmp_path / file)
    tables.append(read_runs(tmp_path / "proxies.parquet"))
    for table in tables:
        assert table.runs == tuple(r.split(" @")[0] for r in SAMPLE.runs[:3]) and np.array_equal(table.losses, SAMPLE.losses[:3]) and table.tokens == pytest.approx(SAMPLE.tokens[:3], rel=1e-12)
    (tmp_path / "proxies_configs.parquet").unlink()
    assert "no columns are weights" in refusal(tmp_path / "proxies.parquet")
    (tmp_path / "cut.db").write_bytes(before[:9000])
    assert "not a complete one of Trackio's" in refusal(tmp_path / "cut.db") and "holds several databases; name one: cut.db, proxies.db" in refusal(tmp_path)


def test_the_last_step_counts_and_of_one_step_what_was_logged_last(tmp_path):
    "Trackio's rows in the order in which they were logged: a later row of an earlier step changes nothing."
    rows = [("a", 10, 5., None), ("a", 20, 3., None), ("a", 20, 2.5, None), ("a", 15, 9., None), ("b", 20, 4., None), ("b", 30, None, 1.)]
    pd.DataFrame([{"run_name": run, "step": step, "timestamp": "2026", "eval/web/loss": x, "eval/code/loss": x, "other": o} for run, step, x, o in rows]).to_parquet(tmp_path / "p.parquet")
    pd.DataFrame([{"run_name": run, "w/web": .5, "w/code": .5} for run in "ab"]).to_parquet(tmp_path / "p_configs.parquet")
    table = read_runs(tmp_path / "p.parquet", PLAIN)
    assert table.losses.tolist() == [[2.5, 2.5], [4, 4]] and table.notes == ("1 of the runs went on after their losses were last measured: b",)


# ---- the mapping ----

TABLE = "name,w/web,w/code,eval/web/loss,eval/code/loss,eval/law/loss,ppl/web\nbase,0.5,0.5,3.9,2.6,3,49\nup,0.7,0.3,3.8,2.7,3,44\n"
PLAIN = {"weights": "w/{domain}", "total": "1B", "loss": "eval/{domain}/loss"}


def test_a_mapping_from_a_file_and_what_it_leaves_over(tmp_path):
    path = written(tmp_path / "runs.csv", TABLE)
    written(tmp_path / "c.json", json.dumps(PLAIN)); written(tmp_path / "c.yml", yaml.safe_dump(PLAIN))
    for columns in (PLAIN, tmp_path / "c.json", str(tmp_path / "c.yml")):
        table = read_runs(path, columns)
        assert (table.domains, table.validation, table.tokens.tolist()) == (("web", "code"), ("web", "code", "law"), [[5e8, 5e8], [7e8, 3e8]])
        assert table.notes == ("judged and not trained on: law", "not used, though they look like losses: ppl/web")
    partly = read_runs(path, {**PLAIN, "loss": {"web": "eval/web/loss"}, "leave_out": ["up"]})
    assert partly.losses.tolist() == [[3.9]] and "trained on and not judged, there is no loss of code" in partly.notes and "1 of 2 runs left out, named in leave_out: up" in partly.notes


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.floats(.1, 9), min_size=2, max_size=2), st.sampled_from(["nats", "bits", "perplexity", "bits per byte"]), st.floats(1, 8))
def test_units(tmp_path_factory, nats, unit, size):
    value = {"nats": lambda x: x, "bits": lambda x: x / np.log(2), "perplexity": np.exp, "bits per byte": lambda x: x / np.log(2) / size}[unit]
    path = written(tmp_path_factory.mktemp("u") / "t.csv", f"name,w/a,w/b,l/a,l/b\nx,0.5,0.5,{value(nats[0])!r},{value(nats[1])!r}\n".replace("np.float64(", "").replace(")", ""))
    table = read_runs(path, {"weights": "w/{domain}", "total": "1B", "loss": "l/{domain}", "unit": unit, "bytes_per_token": {"a": size, "b": size}})
    assert table.losses[0] == pytest.approx(nats, rel=1e-12)


def test_a_perplexity_of_1_is_a_loss_of_0(tmp_path):
    path = written(tmp_path / "t.csv", "name,w/a,w/b,l/a,l/b\nx,0.5,0.5,1,7.389056098930650\n")
    assert read_runs(path, {"weights": "w/{domain}", "total": "1B", "loss": "l/{domain}", "unit": "perplexity"}).losses[0] == pytest.approx([0, 2], abs=1e-15)


@pytest.mark.parametrize("change, says", [
    ({"losses": "x"}, "'losses' is not known (nearest: loss"), ({"loss": "evil/{domain}/loss"}, "no column fits 'evil/{domain}/loss' (nearest: eval/"), ({"loss": "eval/web/loss"}, "write {domain} once"),
    ({"loss": {"web": "eval/wbe/loss"}}, "loss.web: there is no column 'eval/wbe/loss' (nearest: eval/web/loss"), ({"run": "nam"}, "run: there is no column 'nam' (nearest: name)"), ({"total": "tokens"}, "total: there is no column 'tokens'"),
    ({"total": "-5"}, "there is no column '-5'"), ({"unit": "furlongs"}, "choose nats, bits, perplexity, bits per byte"), ({"unit": "perplexity"}, "perplexity of 0.9 is below 1"), ({"unit": "bits per byte"}, "give bytes_per_token"),
    ({"seed": "eval/web/loss"}, "not a whole number"), ({"tokens": "w/{domain}"}, "both tokens and weights"), ({"unique": "eval/{domain}/loss"}, "unique: 'law' is no domain"), ({"leave_out": ["uo"]}, "no run 'uo' (nearest: up)"), ({"leave_out": ["base", "up"]}, "no run is left")])
def test_mappings_that_do_not_fit_say_which_part(tmp_path, change, says):
    path = written(tmp_path / "runs.csv", TABLE.replace("2.7,", "0.9,"))
    assert says in refusal(path, {**PLAIN, **change})


def test_losses_that_are_no_nats_are_said(tmp_path):
    "In a table of the contract, and in an export; not where the mapping says what they are."
    high = "loss.code is 30 in the mean: nats per token are seldom above 12; if these are perplexities or bits, say so with --columns (\"unit\": \"perplexity\")"
    ours = written(tmp_path / "runs.csv", "run,tokens.web,tokens.code,loss.web,loss.code\nx,1,2,11.9,20\ny,2,1,11.9,40\n")
    assert read_runs(ours).notes == (high,)
    assert read_runs(ours, {"run": "run", "tokens": "tokens.{domain}", "loss": "loss.{domain}", "unit": "perplexity"}).notes == ()
    assert read_runs(written(tmp_path / "other.csv", TABLE), {**PLAIN, "loss": {"web": "ppl/web"}}).notes[-1].startswith("loss.web is 46.5 in the mean")


def test_whole_tokens_of_weights_sum_to_the_total(tmp_path):
    "Three decimals, and thirds; the remainder goes to those that lost most."
    path = written(tmp_path / "t.csv", "name,w/a,w/b,w/c,l/a\nx,0.333,0.333,0.333,3\ny,0.7,0.2,0.1,3\nz,0,0,1,3\n")
    assert read_runs(path, {"weights": "w/{domain}", "total": 1000, "loss": "l/{domain}"}).tokens.tolist() == [[334, 333, 333], [700, 200, 100], [0, 0, 1000]]


def test_runs_that_cannot_be_used_are_listed_by_name_and_reason(tmp_path):
    "Those that are many with their number; a run that was judged at its last step stays."
    rows = [("kept", "Finished", .5, .5, 3, 2, 100), *((f"dead {i}", "Crashed", .5, .5, 3, 2, 100) for i in range(9)), ("half", "finished", .5, .5, 3, "", 100), ("bare", "finished", "", "", 3, 2, 100), ("web", "finished", 1, "", 3, 2, "")]
    pd.DataFrame(rows, columns=["name", "state", "w/web", "w/code", "l/web", "l/code", "steps"]).to_csv(tmp_path / "t.csv", index=False)
    table = read_runs(tmp_path / "t.csv", {"weights": "w/{domain}", "total": "1B", "loss": "l/{domain}"})
    assert table.runs == ("kept", "web") and table.tokens.tolist() == [[5e8, 5e8], [1e9, 0]]
    assert table.notes == ("9 of 13 runs left out, in the state crashed: dead 0, dead 1, dead 2, dead 3, dead 4, dead 5, dead 6, dead 7 and 1 more", "1 of 13 runs left out, without a final loss of code: half",
                           "1 of 13 runs left out, without a mixture: bare", "some runs say nothing of code; they count as runs without it")


def test_runs_judged_before_their_end_are_left_out(tmp_path):
    "Where the mapping names the steps that a run was to have: the last of its losses decides. A run that says nothing, or no number, is named."
    rows = [("whole", 20, "20"), ("early", 19, "20"), ("silent", 5, "")]
    pd.DataFrame([{"run_name": run, "step": at, "timestamp": "2026", "eval/web/loss": 3., "eval/code/loss": 2.} for run, last, _ in rows for at in (1, last)]).to_parquet(tmp_path / "p.parquet")
    pd.DataFrame([{"run_name": run, "w/web": .5, "w/code": .5, "max_steps": steps} for run, _, steps in rows]).to_parquet(tmp_path / "p_configs.parquet")
    columns = {**PLAIN, "steps": "max_steps"}
    with pytest.raises(InputError, match=r"run 'silent': config\.max_steps is ''"): read_runs(tmp_path / "p.parquet", columns)
    table = read_runs(tmp_path / "p.parquet", {**columns, "leave_out": ["silent"]})
    assert table.runs == ("whole",) and table.steps.tolist() == [20] and "1 of 3 runs left out, judged at step 19 of 20, before the end: early" in table.notes
    configs = pd.read_parquet(tmp_path / "p_configs.parquet")
    for cell in ("many", "1e3x", "20 steps"):
        configs.assign(max_steps=cell).to_parquet(tmp_path / "p_configs.parquet")
        assert f"p.parquet: run 'whole': steps is '{cell}', not a number" in refusal(tmp_path / "p.parquet", columns)


def test_mean_losses_and_training_losses_are_no_validation_domains(tmp_path):
    text = "name,w/web,w/code,eval/web/loss,eval/code/loss,eval/mean/loss,train/loss,ppl/web\nbase,0.5,0.5,3.9,2.6,3,3,49\n"
    table = read_runs(written(tmp_path / "t.csv", text), PLAIN)
    assert table.validation == ("web", "code") and table.notes == ("not used, though they look like losses: eval/mean/loss, ppl/web",)
    named = read_runs(tmp_path / "t.csv", {**PLAIN, "loss": {"code": "eval/code/loss", "mean": "eval/mean/loss"}})  # as asked for; domains first
    assert named.validation == ("code", "mean") and "judged and not trained on: mean" in named.notes
    assert read_runs(written(tmp_path / "all.csv", text.replace("web", "all")), PLAIN).validation == ("all", "code")  # a domain of that name is one


def test_names_of_columns_that_fit_nothing_are_listed_up_to_eight(tmp_path):
    path = written(tmp_path / "t.csv", f"run,{','.join('qrstuvwxyz')}\nx,{','.join('0123456789')}\n")
    said = refusal(path, {"weights": "mixture-of-{domain}", "total": "1B", "loss": "loss-of-{domain}"})
    assert "its columns are run, q, r, s, t, u, v, w and 3 more" in said


def test_a_mapping_in_yaml_without_its_package_can_be_json(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert refusal(written(tmp_path / "runs.csv", TABLE), written(tmp_path / "c.yml", "run: name\n")).endswith("c.yml: reading c.yml needs a package; run: pip install pyyaml, or write the file as JSON")


def test_decimal_commas_are_asked_about(tmp_path):
    for row in ("base 1B;333;333;3,92;2,61", "base 1B,333,333,3,92,2,61"):
        assert "decimal commas? write 3.92, not 3,92" in refusal(written(tmp_path / "runs.csv", f"run,tokens.web,tokens.code,loss.web,loss.code\n{row}\n"))
    assert "decimals with a point" in refusal(written(tmp_path / "runs.csv", "run;tokens.web;loss.web\nx;333;3,92\n"))
    assert "has 2 fields, the header 3; give each run a field for every column" in refusal(written(tmp_path / "runs.csv", "run,tokens.web,loss.web\nx,333\n"))


def test_mapping_files_that_cannot_be_read(tmp_path):
    path = written(tmp_path / "runs.csv", TABLE)
    assert "none.json" in refusal(path, tmp_path / "none.json")
    assert "name it .yml if it is YAML" in refusal(path, written(tmp_path / "c.json", "run: name\n")) and "cannot be read as YAML" in refusal(path, written(tmp_path / "c.yml", "run: [\n"))
    for text in ("[]", "{}", "3"): assert "known keys are run, tokens" in refusal(path, written(tmp_path / "c.json", text))
    with pytest.raises(InputError, match="tokens or weights are not given; for example"): read_mapping({"loss": "a/{domain}"})


def test_one_name_in_config_and_summary_needs_its_prefix(tmp_path):
    run = {"name": "x", "config": {"a": {"web": .4, "code": .6}}, "summary": {"a.web": 1., "l/web": 3., "l/code": 2.}}
    path = written(tmp_path / "r.json", json.dumps([run]))
    assert "fits both config.a.web and summary.a.web" in refusal(path, {"weights": "a.{domain}", "total": "1B", "loss": "l/{domain}"})
    assert read_runs(path, {"weights": "config.a.{domain}", "total": "1B", "loss": "l/{domain}"}).tokens.tolist() == [[4e8, 6e8]]


@pytest.mark.parametrize("text, says", [
    (TABLE.replace("w/", "x/").replace("0.7", "0.9"), "no columns are weights that sum to 1"), (TABLE.replace("eval/", "train/"), None), (TABLE, "no column has the tokens of a run"),
    ("name,w/web,w/code,v/web,v/code,eval/web/loss,eval/code/loss\na,.5,.5,.4,.6,3,2\n", "the mixture could be w/{domain} or v/{domain}"), ("name,w/web,w/code,eval/web/loss,eval/code/loss,test/web/loss,test/code/loss\na,.5,.5,3,2,3,2\n", "the losses could be eval/{domain}/loss or test/{domain}/loss"),
    ("name,w/web,w/code,eval/web/bpb,eval/code/bpb\na,.5,.5,1,.8\n", "bits per byte: give unit"), ("a,b\n1,2\n", "write a mapping like")])
def test_what_is_in_doubt_is_asked(tmp_path, text, says):
    "And never assumed; the refusal keeps the contract and shows a mapping."
    path = written(tmp_path / "runs.csv", text)
    if says is None: assert read_runs(path, tokens="1B").validation[:2] == ("web", "code")
    else:
        said = refusal(path)
        assert says in said and "needs the columns run, tokens.<domain> … and loss.<domain> …" in said and "--columns columns.json" in said


@pytest.mark.parametrize("text, says", [
    (TABLE.replace("3.8,", "nan,"), "run 'up': eval/web/loss is 'nan'"), (TABLE.replace("3.8,", "inf,"), "run 'up': loss.web is inf"), (TABLE.replace("0.7,", "0.2,"), "weights of run 'up' sum to 0.5"), (TABLE.replace("0.7,", "-0.7,").replace("0.3,", "1.7,"), "-"),
    (TABLE.replace("up", "base"), "run 'base' stands there 2 times"), (TABLE[:-1], "looks cut off"), (TABLE + "x,1\n", "has 2 fields"), (TABLE.replace("3.8,", "three,"), "'three'")])
def test_bad_values_are_refused_by_run_and_column(tmp_path, text, says):
    said = refusal(written(tmp_path / "runs.csv", text), PLAIN)
    assert says in said and said.count("runs.csv: ") == 1


def test_files_that_are_no_table(tmp_path):
    (tmp_path / "u16.csv").write_bytes(TABLE.encode("utf-16")); (tmp_path / "latin.csv").write_bytes(TABLE.replace("up", "für").encode("latin-1"))
    (tmp_path / "runs.pkl").write_bytes(pickle.dumps([1])); pd.DataFrame().to_csv(tmp_path / "z.csv.gz"); (tmp_path / "book.xlsx").write_bytes(b"PK\3\4rest"); (tmp_path / "empty.csv").write_text("\n"); (tmp_path / "folder").mkdir()
    for name, says in (("u16.csv", "UTF-16; save it as UTF-8"), ("latin.csv", "save it as UTF-8"), ("runs.pkl", "a pickle, which could run code and is not opened"), ("z.csv.gz", "compressed; unpack it"),
                       ("book.xlsx", "save the table as CSV"), ("empty.csv", "is empty"), ("folder", "a folder without runs"), ("none.csv", "no such run table")):
        assert f"{name}: " in refusal(tmp_path / name) and says in refusal(tmp_path / name)
    assert read_export(written(tmp_path / "bom.csv", "\ufeff" + TABLE)).columns["name"] == ["base", "up"]


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


def test_runs_of_one_table_only_are_listed_up_to_eight(tmp_path):
    rows = "".join(f"r{i},0.5,0.5\n" for i in range(10))
    for more, shown in ((8, "r2, r3, r4, r5, r6, r7, r8, r9"), (9, "r1, r2, r3, r4, r5, r6, r7, r8 …")):
        table = read_paired_tables(*pair(tmp_path, f"run,a,b\n{rows}", "run,loss/a,loss/b\n" + "".join(f"r{i},3,2\n" for i in range(10 - more))), "1B")
        assert table.notes == (f"{more} of the runs stand in only one of the two tables and are left out: {shown}",)


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
