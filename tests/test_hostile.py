"""Input from anybody: whatever a file says, it is read as a valid object or refused in one line; nothing runs, nothing hangs, nothing is written elsewhere."""
import ast
import bz2
import faulthandler
import gzip
import io
import json
import keyword
import re
import shlex
import sqlite3
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoscale import reproduce
from autoscale.baselines import choice_from_dict
from autoscale.bench import read_records, report
from autoscale.corpus import LocalSource, _canonical, load_tokenizer, open_store
from autoscale.evaluate import read_requests
from autoscale.export import FRAMEWORKS, export_mixture
from autoscale.imports import read_mapping, read_runs
from autoscale.mixture import InputError, Mixture, html_table, load_available, load_mixture, mixture_from_dict, mixture_to_dict, parse_json, parse_tokens, parse_yaml, save_mixture, text_table
from autoscale.page import Chart, bullets, data_table, document, figure, safe
from autoscale.readers import read_export
from autoscale.registry import archive_members, decompressed
from autoscale.runs import RunRecord, RunSpec, RunStore, RunTable, read_run_table, run_table, write_run_table
from autoscale.sweep import read_settings, run_configs
from autoscale.tracking import Tracker

ROOT = Path(__file__).resolve().parents[1]


def fuzz(examples):
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


# ---- the property ----

@pytest.fixture(autouse=True)
def not_for_ever():
    "A reader that hangs ends the process, and is shown."
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def folder(tmp_path):
    "A folder to read in; what lies beside it is as it was when the test is over."
    inside, beside = tmp_path / "inside", tmp_path / "beside"
    inside.mkdir(); beside.mkdir(); (beside / "kept.txt").write_text("kept")
    yield inside
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if inside not in p.parents} == {"inside", "beside", "beside/kept.txt"} and (beside / "kept.txt").read_text() == "kept"


def answer(read, *given, named=""):
    "What a reader answers; None for a refusal, which is one line that a terminal only shows, and names the file. Anything else it raises is raised here."
    try: return read(*given)
    except InputError as e:
        said = str(e)
        assert said and said.isprintable() and len(said) < 20_000 and named in said, said
        return None


# ---- mutations ----

HUGE = 10**400
VALUES = [None, True, False, 0, -1, 1, 0.5, float("nan"), float("inf"), -float("inf"), 1e308, 1e-320, 10**30, HUGE, -HUGE, 2**63, "", " ", "x", "nan", "1e999", "a\nb\r\u2028c", "a\0b", "\ud800", "../../beside/kept.txt", "/etc/passwd", "\u202egnp",
          "<script>alert(1)</script>", "{domain}", "${IFS}`id`", "x" * 5000, [], {}, [[]], [None], {"a": None}, [1, 2], {"": {"": []}}, "2001-99-99"]
values = st.sampled_from(VALUES)


def places(value, at=()):
    "The path of every value in a JSON document."
    yield at
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*at, key))


def replaced(document, at, new):
    if not at: return new
    document = document.copy(); document[at[0]] = replaced(document[at[0]], at[1:], new)
    return document


@st.composite
def documents(draw, valid, levels=3000):
    "The text of a JSON document with one or two values of another kind, without a key, with a key twice, or nested too deep."
    found = valid
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.sampled_from(list(places(found))))
        inside = found
        for key in at: inside = inside[key]
        kind = draw(st.sampled_from(["value", "value", "value", "less", "more"]))
        if kind == "less" and isinstance(inside, (dict, list)) and inside: new = {k: v for k, v in list(inside.items())[1:]} if isinstance(inside, dict) else inside[1:]
        elif kind == "more" and isinstance(inside, (dict, list)): new = {**inside, draw(st.sampled_from(["", "x\ny", "\0", "../../x", "x" * 3000])): draw(values)} if isinstance(inside, dict) else [*inside, draw(values)]
        else: new = draw(values)
        found = replaced(found, at, new)
    text = json.dumps(found)
    kind = draw(st.sampled_from(["", "", "", "", "twice", "deep", "cut", "bom"]))
    if kind == "twice" and text.startswith("{\""): text = "{" + text[1:].split(",", 1)[0] + "," + text[1:]
    if kind == "deep": text = "[" * levels + text + "]" * levels
    if kind == "cut": text = text[:draw(st.integers(0, len(text)))]
    return b"\xef\xbb\xbf" + text.encode() if kind == "bom" else text.encode()


@st.composite
def damaged(draw, valid: bytes):
    "Bytes with some of them flipped, cut off, put in or put twice."
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["flip", "flip", "flip", "cut", "in", "twice", "gone"]))
        if kind == "flip" and data: data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut": del data[at:]
        elif kind == "in": data[at:at] = draw(st.one_of(st.binary(max_size=12), st.sampled_from([b"\0", b"\n", b'"', b"\xff\xfe", b"\xed\xa0\x80", b"9" * 400, b"\xe2\x80\xa8", b"1e999", b"nan", b"," * 50])))
        elif kind == "twice": data[at:at] = data[at:at + 40]
        elif kind == "gone": del data[at:at + draw(st.integers(1, 30))]
    return bytes(data)


# ---- valid files to begin from ----

DOMAINS = ("web", "code")
MIXTURE = {**mixture_to_dict(Mixture(DOMAINS, (750, 250), "joint")), "interval": {"level": .9, "low": [.7, .2], "high": [.8, .3]}, "epochs": [1.5, .5]}
TABLE = RunTable(tuple("abcdef"), DOMAINS, DOMAINS, np.array([[600, 400], [400, 600], [700, 300], [1200, 800], [800, 1200], [1400, 600]], float), np.array([[3.1, 3.4], [3.2, 3.2], [3.0, 3.5], [2.9, 3.1], [3., 3.], [2.8, 3.2]]),
                 np.full(6, 1000), np.zeros(6, int), np.full(6, 10))
EXPORT = [{"name": f"run {i}", "id": str(i), "state": "finished", "config": {"mixture": {"web": w, "code": 1 - w}, "total_tokens": 10**6}, "summary": {"eval": {"web": {"loss": 3 - w}, "code": {"loss": 2 + w}}, "_step": 9}} for i, w in enumerate((.5, .25, .75, .6, .4))]
MAPPING = {"run": "name", "weights": "config.mixture.{domain}", "total": "1M", "loss": "eval.{domain}.loss", "unit": "nats", "leave_out": ["run 1"]}
RECORD = RunRecord(RunSpec(Mixture(DOMAINS, (640, 640)), "f" * 64, {"model_type": "gpt2", "n_embd": 8}, {"learning_rate": .1}, 64, 4), "base", "finished", losses={"web": 3.5, "code": 2.5}, curve=[{"step": 1, "tokens": 2, "loss": 3., "learning_rate": .1}],
                   evaluations=[{"step": 1, "tokens": 2, "losses": {"web": 3.}}], epochs={"web": .5, "code": .5}, params=100, seconds=1., versions={"torch": "2"}, machine={"cores": 2})
CHOICE = {**mixture_to_dict(Mixture(DOMAINS, (750, 250))), "method_name": "joint", "cost": {"runs": 3, "tokens": 100, "flops": 1e9}, "notes": ["a"], "trained": ["b"]}
SETTINGS = {"model": {"model_type": "gpt2", "n_embd": 64, "n_layer": 2}, "optimiser": {"learning_rate": .002, "betas": [.9, .95]}, "context": 64, "batch": 16, "precision": "bf16", "seeds": [0, 1], "evaluation_sequences": 64, "workers": 1, "stack": 1, "compile": False, "masked": .15}
STATE = {"stage-1": {"key": "abc", "outputs": {"/x": "0"}}}
BENCH = {"benchmark": "b", "question": "q", "date": "d", "machine": {"processor": "p", "cores": 2, "device": "cpu", "load": 0, "versions": {"torch": "2"}}, "parameters": {},
         "rows": [{"what": "w", "value": 1.5, "unit": "s", "low": 1., "high": 2., "repeats": 3, "aim": None, "holds": None, "note": ""}]}
REQUEST = {"doc_id": 0, "idx": 0, "label": 0, "request": {"context": "c", "continuation": " d"}}


@pytest.fixture(scope="module")
def manifest(store): return json.loads((store.path / "manifest.json").read_text("utf-8"))


def runs_from(path):
    table = read_runs(path)
    assert len(table) == len(table.losses) and np.isfinite(table.losses).all() and np.isfinite(table.tokens).all() and (table.tokens >= 0).all()
    return table, table._repr_html_()


def mixture_from(path):
    mixture = load_mixture(path)
    assert mixture.total > 0 and abs(mixture.weights.sum() - 1) < 1e-9
    save_mixture(path, mixture)
    assert load_mixture(path) == mixture
    return mixture, mixture._repr_html_()


def settings_from(path):
    found = read_settings(path)
    assert RunSpec(Mixture(DOMAINS, (640, 640)), "", found["model"], found["optimiser"], found["context"], found["batch"], found["seeds"][0] if found["seeds"] else 0, found["precision"], masked=found["masked"]).hash
    return found


def records_from(path): return report(read_records(path.parent))


def requests_from(path): return read_requests(path.read_bytes().decode("utf-8", "replace").split("\n"))


READERS = {  # file's name -> what is in a good one, what reads it; whether a refusal names the file
    "mixture.json": (MIXTURE, mixture_from, True), "there.json": ({"web": "3B", "code": 12}, load_available, True), "runs.json": (EXPORT, runs_from, True), "columns.json": (MAPPING, read_mapping, True),
    "settings.yml": (SETTINGS, settings_from, True), "bench-x.json": (BENCH, records_from, True), "choices.json": ([CHOICE], reproduce.recorded_choices, True), "requests.jsonl": (REQUEST, requests_from, False),
    "state.json": (STATE, lambda path: reproduce._read_state(path, lambda line: None), False), "stage-2-records.json": (["0123456789abcdef"], lambda path: reproduce.record_hashes(reproduce.Places(path, path, path, path.parent), "proxy"), False),
    "stage-2c-doremi.json": (CHOICE, lambda path: reproduce.stage_evidence(path.parent, {"web": 5}, "nats", .1), True)}


@pytest.mark.parametrize("name", READERS)
@fuzz(70)
@given(data=st.data())
def test_json_of_other_values(tmp_path_factory, name, data):
    valid, read, named = READERS[name]
    path = tmp_path_factory.mktemp("json") / name
    path.write_bytes(data.draw(documents(valid, 200 if name.endswith("yml") else 3000)))  # of YAML, deep nesting takes its parser half a second
    answer(read, path, named=name if named else "")


@pytest.mark.parametrize("name", READERS)
@fuzz(40)
@given(data=st.data())
def test_json_with_damaged_bytes(tmp_path_factory, name, data):
    valid, read, named = READERS[name]
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(data.draw(damaged(json.dumps(valid).encode())))
    answer(read, path, named=name if named else "")


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read_and_what_is_no_file_is_refused(folder, name):
    "Else the tests above would pass with readers that refuse everything."
    valid, read, named = READERS[name]
    (folder / name).write_text(json.dumps(valid))
    assert answer(read, folder / name)
    (folder / name).unlink(); (folder / name).mkdir()
    if name != "requests.jsonl": answer(read, folder / name, named=name if named else "")
    if named and name not in ("runs.json", "choices.json", "bench-x.json", "stage-2c-doremi.json"): assert answer(read, folder / f"{name}\0x") is None


@fuzz(60)
@given(data=st.data())
def test_manifests(tmp_path_factory, manifest, data):
    "Anybody can compute a checksum, so what it covers is checked too."
    path = tmp_path_factory.mktemp("manifest") / "store.json"
    text = data.draw(documents({k: v for k, v in manifest.items() if k != "checksum"}))
    try: found = json.loads(text)
    except (ValueError, RecursionError): found = None
    if isinstance(found, dict) and isinstance(found.get("format"), str):
        try: text = json.dumps({**found, "checksum": _canonical(found)}).encode()
        except UnicodeEncodeError: pass
    path.write_bytes(text)
    if store := answer(open_store, path, named="store.json"): assert store.hash and store.available() and store.eot < store.vocab_size and not any("/" in d or d.startswith(".") for d in store.domains)


def test_a_store_whose_names_lead_out_of_its_folder(folder, manifest):
    for name in ("../beside/kept", "/etc/passwd", "a/b", "..", "", "x" * 300):
        changed = {k: v for k, v in manifest.items() if k != "checksum"} | {"domains": {name: manifest["domains"]["python_docs"]}}
        (folder / "store.json").write_text(json.dumps({**changed, "checksum": _canonical(changed)}))
        with pytest.raises(InputError, match="cannot be a file name"): open_store(folder / "store.json")


@pytest.mark.parametrize("file", ["manifest.json", "python_docs.valid.bin", "tokenizer/tokenizer.json"])
@fuzz(8)
@given(data=st.data())
def test_a_store_with_damaged_bytes_is_not_opened(tmp_path_factory, store, file, data):
    import shutil
    path = tmp_path_factory.mktemp("store") / "s"
    shutil.copytree(store.path, path, copy_function=lambda a, b: Path(b).symlink_to(a))
    valid = (path / file).read_bytes(); (path / file).unlink(); (path / file).write_bytes(changed := data.draw(damaged(valid)))
    opened = answer(open_store, path, named=str(path))
    assert opened is None or changed == valid or (file == "manifest.json" and json.loads(changed) == json.loads(valid))


# ---- run tables ----

def csv_of(folder):
    write_run_table(folder / "runs.csv", TABLE)
    return (folder / "runs.csv").read_bytes()


@fuzz(150)
@given(data=st.data())
def test_tables_with_damaged_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("csv")
    (folder / "bad.csv").write_bytes(data.draw(damaged(csv_of(folder))))
    answer(runs_from, folder / "bad.csv", named="bad.csv"); answer(read_run_table, folder / "bad.csv", named="bad.csv")


@fuzz(150)
@given(row=st.integers(0, 6), column=st.integers(0, 7), cell=st.one_of(st.sampled_from([str(v) for v in VALUES if not isinstance(v, int) or abs(v) < 10**300] + ["9" * 5000, "{'a': 1}", "{" * 500, "1e400", "-0", "0x10", "1_0", "\uff11", "1,5", "٣"]), st.text(max_size=12)))
def test_tables_with_other_cells(tmp_path_factory, row, column, cell):
    folder = tmp_path_factory.mktemp("cells")
    lines = [line.split(",") for line in csv_of(folder).decode().splitlines()]
    lines[row][column] = '"' + cell.replace('"', '""') + '"'
    (folder / "bad.csv").write_bytes(("\n".join(map(",".join, lines)) + "\n").encode("utf-8", "surrogatepass"))
    answer(runs_from, folder / "bad.csv", named="bad.csv"); answer(read_run_table, folder / "bad.csv", named="bad.csv")


def parquet_of(columns) -> bytes:
    import pyarrow as pa, pyarrow.parquet as pq
    raw = io.BytesIO(); pq.write_table(pa.table(columns), raw)
    return raw.getvalue()


GOOD_PARQUET = {"run": list("abc"), "tokens.web": [1000, 500, 2000], "tokens.code": [500, 1000, 2000], "loss.web": [3., 3.1, 2.9], "loss.code": [2., 1.9, 1.8]}


@fuzz(60)
@given(data=st.data())
def test_parquet_with_damaged_bytes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("parquet") / "bad.parquet"
    path.write_bytes(data.draw(damaged(parquet_of(GOOD_PARQUET))))
    answer(runs_from, path, named="bad.parquet")


def test_parquet_of_other_kinds(folder):
    import datetime, decimal
    import pyarrow as pa, pyarrow.parquet as pq
    for column in ([b"\xff"] * 3, [datetime.datetime(2020, 1, 1)] * 3, [decimal.Decimal("1.5")] * 3, [[1], [], None], [{"a": 1}] * 3, [None] * 3, [True] * 3, [float("nan")] * 3):
        for name in ("loss.web", "other"):
            (folder / "t.parquet").write_bytes(parquet_of({**GOOD_PARQUET, name: column}))
            answer(runs_from, folder / "t.parquet", named="t.parquet")
    (folder / "t.parquet").write_bytes(parquet_of({})); assert answer(runs_from, folder / "t.parquet", named="t.parquet") is None
    assert answer(read_runs, folder / "t.parquet", None, folder / "t.parquet", "1B", named="t.parquet") is None
    pq.write_table(pa.table([[1, 2], [3, 4]], names=["run", "run"]), folder / "t.parquet"); assert answer(runs_from, folder / "t.parquet", named="t.parquet") is None
    pq.write_table(pa.table({"run": pa.array(np.zeros(60_000_000, np.int8))}), folder / "t.parquet")  # some kilobytes
    assert (folder / "t.parquet").stat().st_size < 300_000
    with pytest.raises(InputError, match="60,000,000 cells"): read_runs(folder / "t.parquet")


def trackio_of(path):
    base = sqlite3.connect(path)
    base.executescript("create table configs (run_id, run_name, config); create table metrics (id integer primary key, run_id, run_name, step, metrics)")
    for run in EXPORT:
        base.execute("insert into configs values (?, ?, ?)", (run["id"], run["name"], json.dumps(run["config"])))
        base.execute("insert into metrics (run_id, run_name, step, metrics) values (?, ?, 9, ?)", (run["id"], run["name"], json.dumps(run["summary"])))
    base.commit(); base.close()
    return path.read_bytes()


@fuzz(40)
@given(data=st.data())
def test_databases_with_damaged_bytes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("trackio") / "bad.db"
    valid = trackio_of(path)
    path.write_bytes(data.draw(damaged(valid)))
    answer(runs_from, path, named="bad.db")


def test_databases_of_other_values(folder):
    trackio_of(folder / "good.db"); assert answer(runs_from, folder / "good.db")
    for n, v in enumerate([None, "x", b"\xff\xfe", 1e308, "[1]", '{"a": 1, "a": 2}', "[" * 9999, '{"a": NaN}', "\ud7ff"]):
        for column in ("run_id", "run_name", "step", "metrics"):
            path = folder / f"{n}-{column}.db"; trackio_of(path)
            base = sqlite3.connect(path); base.execute(f"update metrics set {column} = ?", (v,)); base.commit(); base.close()
            answer(runs_from, path, named=path.name)
    base = sqlite3.connect(folder / "view.db")  # a program that never ends
    base.executescript("create table configs (run_id, run_name, config); create view metrics as with recursive n(x) as (select 1 union all select x + 1 from n) select x id, x run_id, x run_name, x step, '{}' metrics from n"); base.close()
    with pytest.raises(InputError, match="no table metrics"): read_runs(folder / "view.db")


def wandb_of(path):
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    def record(**parts): return internal.Record(**parts).SerializeToString()
    run = internal.RunRecord(run_id="r1", display_name="first"); run.config.update.add(key="mixture", value_json='{"web": 0.5, "code": 0.5}')
    summary = internal.SummaryRecord(); summary.update.add(key="loss", value_json="3.5")
    data = b":W&B\xde\xad\x00"
    for raw in (record(run=run), record(summary=summary), record(exit=internal.RunExitRecord(exit_code=0))): data += struct.pack("<IHB", zlib.crc32(b"\1" + raw), len(raw), 1) + raw
    path.write_bytes(data)
    return data


@fuzz(60)
@given(data=st.data())
def test_offline_runs_with_damaged_bytes(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("wandb") / "run-1.wandb"
    valid = wandb_of(path); assert read_export(path).columns["summary.loss"] == ["3.5"]
    path.write_bytes(data.draw(damaged(valid)))
    answer(read_export, path, named="run-1.wandb")


@pytest.mark.parametrize("value", ["", "{", "[" * 5000, '{"a": 1, "a": 2}', "NaN", '"\\ud800"', "9" * 5000])
def test_offline_runs_of_sound_records_with_other_values(folder, value):
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    run = internal.RunRecord(run_id="r1"); run.config.update.add(key="a\nb", value_json=value)
    raw = internal.Record(run=run).SerializeToString()
    (folder / "run-1.wandb").write_bytes(b":W&B\xde\xad\x00" + struct.pack("<IHB", zlib.crc32(b"\1" + raw), len(raw), 1) + raw)
    answer(read_export, folder / "run-1.wandb", named="run-1.wandb")


@fuzz(40)
@given(data=st.data())
def test_events_with_damaged_bytes(tmp_path_factory, data):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer"); event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2"); tensors = pytest.importorskip("tensorboard.util.tensor_util")
    folder = tmp_path_factory.mktemp("events") / "runs"; (folder / "r1").mkdir(parents=True)
    event = event_pb2.Event(step=3); event.summary.value.add(tag="loss", tensor=tensors.make_tensor_proto(3.5))
    bomb = event_pb2.Event(step=3); tensor = bomb.summary.value.add(tag="bomb").tensor
    tensor.CopyFrom(tensors.make_tensor_proto(np.float32([1.]))); tensor.tensor_shape.dim[0].size = 1 << 40
    raw = io.BytesIO(); records = writer.RecordWriter(raw); records.write(event.SerializeToString()); records.write(bomb.SerializeToString())
    path = folder / "r1" / "events.out.tfevents.1"; path.write_bytes(raw.getvalue())
    assert read_export(folder).columns["summary.loss"] == ["3.5"] and "summary.bomb" not in read_export(folder).columns
    path.write_bytes(data.draw(damaged(raw.getvalue())))
    answer(read_export, folder, named="runs")


@fuzz(60)
@given(data=st.data())
def test_folders_of_runs(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("folder") / "runs"
    for run in EXPORT[:3]:
        (folder / run["id"]).mkdir(parents=True)
        (folder / run["id"] / "summary.json").write_text(json.dumps(run["summary"])); (folder / run["id"] / "config.yaml").write_text(json.dumps(run["config"]))
    broken = data.draw(st.sampled_from(["summary.json", "config.yaml"]))
    valid = EXPORT[0]["summary" if broken == "summary.json" else "config"]
    (folder / "0" / broken).write_bytes(data.draw(st.one_of(documents(valid, 200 if broken == "config.yaml" else 3000), damaged(json.dumps(valid).encode()))))
    answer(runs_from, folder, named="runs")


@fuzz(80)
@given(data=st.data())
def test_mappings_of_other_values(tmp_path_factory, data):
    "A mapping that passes its own checks meets the table."
    path = tmp_path_factory.mktemp("mapped") / "runs.json"; path.write_text(json.dumps(EXPORT))
    try: mapping = json.loads(data.draw(documents(MAPPING)))
    except (ValueError, RecursionError): return
    answer(read_runs, path, mapping if isinstance(mapping, dict) else {})
    assert len(read_runs(path, MAPPING)) == 4


def test_work_is_bounded(folder):
    "Each of these took minutes, or all the memory, of a file of a few hundred kilobytes: the length of a name squared, of a list of columns squared, a column of its own in every run."
    write = lambda name, text: ((folder / name).write_text(text), folder / name)[1]
    assert answer(parse_tokens, "1" * 200_000) is None and answer(parse_tokens, 10**5000) is None and answer(parse_tokens, "1" + " " * 200_000 + "x") is None
    many = ",".join(["run", *(f"c{i}" for i in range(60_000))])
    answer(read_export, write("wide.csv", many + "\n" + ",".join(["1"] * 60_001) + "\n"))
    assert answer(read_export, write("own.json", "\n".join(f'{{"c{i}": 1}}' for i in range(20_000)))) is None
    answer(runs_from, write("dots.csv", f"run,{'.' * 60_000}a,{'.' * 60_000}b\nx,1,2\n"))
    answer(read_runs, write("names.csv", f"run,{'ab' * 30_000},{'ba' * 30_000}\nx,1,2\n"), {"run": "ab" * 30_001, "tokens": {"a": "x"}, "loss": {"a": "y"}})
    assert answer(Mixture, [*map(str, range(100_000)), "99999"], [1] * 100_001) is None
    answer(read_export, write("spaces.json", '{"a": "' + " " * 300_000 + '"'))
    assert len(str(InputError("x" * 10**6))) < 2100


# ---- records ----

@fuzz(80)
@given(data=st.data())
def test_run_records(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("records")
    text = data.draw(documents({"spec": RECORD.spec.to_dict(), **{k: v for k, v in RunStore(folder).put(RECORD) and json.loads(RunStore(folder).path(RECORD.spec).read_text()).items() if k not in ("spec", "sha256")}}))
    path = RunStore(folder).path(RECORD.spec)
    try: told = RunSpec.from_dict(json.loads(text)["spec"]).hash  # in the file of its own name, so that what it says matters
    except (InputError, ValueError, RecursionError, KeyError, TypeError, AttributeError): told = path.stem
    path.unlink(); path = path.with_name(f"{told}.json"); path.write_bytes(text)
    if records := answer(lambda: list(RunStore(folder)), named=path.name):
        assert isinstance(records[0], RunRecord) and records[0].spec.steps >= 1
        answer(run_table, records)


@pytest.mark.parametrize("name, value", [("context", 0), ("context", True), ("batch", -1), ("seed", "0"), ("seed", 2**63), ("model", []), ("store", None), ("evaluation", {"every": None}), ("unique", {"web": .5}), ("masked", "x")])
def test_kinds_of_values_that_a_specification_cannot_have(name, value):
    with pytest.raises(InputError, match=f"{name} of a specification is"): RunSpec.from_dict({**RECORD.spec.to_dict(), name: value})


# ---- weights and checkpoints ----

@fuzz(40)
@given(data=st.data())
def test_weights_and_checkpoints(tmp_path_factory, store, spec, data):
    import torch
    from autoscale.model import build_model
    from autoscale.trainer import load_checkpoint, load_model, save_checkpoint
    folder = tmp_path_factory.mktemp("weights")
    model = build_model(spec, store); optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(folder / "c.safetensors", [spec], model, optimizer, None, {"step": 0, "seconds": 0., "parts": {}, "runs": [{"curve": [], "evaluations": [], "reason": ""}]})
    raw = (folder / "c.safetensors").read_bytes(); begin = 8 + struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:begin])
    if data.draw(st.booleans()): changed = data.draw(damaged(raw[:begin])) + raw[begin:]
    else:
        head["__metadata__"] = data.draw(st.sampled_from([None, {}, {"spec": 5}, {"spec": spec.hash}, *({**head["__metadata__"], "progress": p} for p in ("", "[]", "5", "{", "[" * 9999, '{"parts": {}, "runs": []}', '{"step": "x", "parts": {}, "runs": []}'))]))
        text = json.dumps(head).encode(); changed = struct.pack("<Q", len(text)) + text + raw[begin:]
    (folder / "c.safetensors").write_bytes(changed)
    answer(load_checkpoint, folder / "c.safetensors", [spec], model, optimizer, named="c.safetensors")
    answer(load_model, spec, store, folder / "c.safetensors", named="c.safetensors")


PROGRESS = {"step": 0, "seconds": 0., "parts": {}, "runs": [{"curve": [], "evaluations": [], "reason": ""}]}


@fuzz(60)
@given(data=st.data())
def test_checkpoints_with_a_right_checksum(tmp_path_factory, store, spec, data):
    "Anybody can compute one."
    import torch
    from safetensors.torch import load_file, save_file
    from autoscale.model import build_model
    from autoscale.trainer import _digest, load_checkpoint, load_model, save_checkpoint
    path = tmp_path_factory.mktemp("forged") / "c.safetensors"
    model = build_model(spec, store); optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(path, [spec], model, optimizer, None, PROGRESS); tensors = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors))); tensor = tensors[name]
    change = data.draw(st.sampled_from([None, None, tensor[:0], tensor.flatten()[:1], tensor.to(torch.float64), tensor[None], tensor * float("nan")]))
    if change is not None: tensors[name] = change.contiguous()
    header = {"spec": data.draw(st.sampled_from([spec.hash, spec.hash, spec.hash, "", "x\ny"])), "progress": data.draw(documents(PROGRESS)).decode("utf-8", "replace")}
    for names in (tensors, {n.removeprefix("weight/"): t for n, t in tensors.items()}):
        save_file(names, path, {**header, "sha256": _digest(names, header)})
        for found in (answer(load_checkpoint, path, [spec], model, optimizer, named="c.safetensors"), answer(load_model, spec, store, path, named="c.safetensors")):
            assert found is None or change is None or change.shape == tensor.shape
            if isinstance(found, tuple): assert 0 <= found[0]["step"] <= spec.steps and len(found[0]["runs"]) == 1


def test_a_pickle_is_not_opened(folder, store, spec):
    "The file that `torch.save` writes, with an object that would make a file when it is loaded."
    import pickle, torch
    from autoscale.trainer import load_checkpoint, load_model
    class Trap:
        def __reduce__(self): return (open, (str(folder / "sprung"), "w"))
    torch.save({"a": Trap()}, folder / "t.pt"); (folder / "p.pkl").write_bytes(pickle.dumps(Trap()))
    for name in ("t.pt", "p.pkl"):
        for read in (read_runs, load_mixture, open_store, lambda p: load_model(spec, store, p), lambda p: load_checkpoint(p, [spec], None, None), lambda p: list(archive_members(p, ".*pkl.*")), read_settings, read_mapping): answer(read, folder / name)
    assert not (folder / "sprung").exists()


def test_the_code_of_a_tokenizer_is_not_run(folder):
    (folder / "tok").mkdir()
    (folder / "tok" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["code.T", "code.T"]}}))
    (folder / "tok" / "config.json").write_text(json.dumps({"model_type": "gpt2", "auto_map": {"AutoTokenizer": ["code.T", "code.T"], "AutoConfig": "code.C"}}))
    (folder / "tok" / "code.py").write_text(f"open({str(folder / 'sprung')!r}, 'w')\nclass T: pass\nclass C: pass\n")
    assert answer(load_tokenizer, folder / "tok", named="tok") is None and not (folder / "sprung").exists()


# ---- YAML, profiles, overrides, parameters of notebooks ----

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi"))
YAMLS = [BOMB, "&a [*a]", "&a {b: *a}", "!!python/object/apply:os.system ['touch sprung']", "!!python/name:os.system", "!!python/module:os", "a: 1\na: 2", "[" * 200, "{" * 200, "2001-99-99", "a: 2001-01-01", "!!binary x", "!!set {a, b}", "? [a, b]\n: c",
         "!!timestamp x", "!!int ''", "!!float x", "!!bool x", "!!omap [a: 1]", "0b", "1:99:99", "\x00", "\ud800", "--- a\n--- b", "%YAML 9.9\n---\na", "<<: 5", "<<: [5]", "a: &x 1\n*x : 2", "=", "- " * 300, "1" * 5000, "~", "'", "\t", "!<x> y", "a: !!null x",
         "\ufeffa: 1", "!!merge x"]


@pytest.mark.parametrize("text", YAMLS, ids=lambda text: text.encode("unicode_escape").decode()[:20])
def test_yaml_of_every_kind(folder, monkeypatch, text):
    monkeypatch.chdir(folder)
    (folder / "c.yml").write_bytes(text.encode("utf-8", "surrogatepass"))
    for read in (read_settings, read_mapping): assert answer(read, folder / "c.yml", named="c.yml") is None
    found = answer(parse_yaml, text); assert found is None or isinstance(found, (dict, list, str, int, float, set, bytes)) or type(found).__module__ == "datetime"
    answer(lambda: reproduce.plain_values(reproduce.parse_overrides([f"target={text}"])))
    for inside in ("model", "optimiser", "seeds", "context", "masked"): answer(settings_from, (folder / "s.yml").write_bytes((json.dumps({k: v for k, v in SETTINGS.items() if k != inside})[1:-1].join(["{", f", {inside}: {text}}}"])).encode("utf-8", "surrogatepass")) and folder / "s.yml")
    assert sorted(p.name for p in folder.iterdir()) == ["c.yml", "s.yml"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkout"); (root / "nbs/paper/profiles").mkdir(parents=True)
    cell = {"cell_type": "code", "execution_count": None, "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": [], "source": "target = 5\nseeds = [0]\nsource = 'runs'"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    (root / "nbs/paper/figure-01.ipynb").write_text(json.dumps(notebook))
    return root


@fuzz(25)
@given(data=st.data())
def test_profiles(checkout, data):
    valid = {"target": 7, "seeds": [0, 1], "without": ["figure-01"], "recorded": True}
    path = checkout / "nbs/paper/profiles/mine.yml"
    path.write_bytes(data.draw(st.one_of(documents(valid, 200), damaged(json.dumps(valid).encode()), st.sampled_from([text.encode("utf-8", "surrogatepass") for text in YAMLS]))))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(checkout)
        answer(reproduce.load_profile, "mine", named="mine")
        for name in ("../../x", "/etc/passwd", "..", "", "mine\0", "profiles/mine"): assert answer(reproduce.load_profile, name) is None
        path.write_text(json.dumps(valid)); assert reproduce.load_profile("mine")["target"] == 7


text_values = st.one_of(st.text(max_size=20), st.sampled_from(['"; import os; os.abort()  #', "'''", '"""', "\\", "\\\"", "\n", "{x}", "\u2028", "${x}", "\\N{DIGIT ONE}", "\r", "\x00"]))
plain = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(), text_values), lambda inside: st.one_of(st.lists(inside, max_size=3), st.dictionaries(text_values, inside, max_size=3)), max_leaves=8)


@fuzz(150)
@given(parameters=st.dictionaries(st.one_of(st.sampled_from(["target", "seeds"]), text_values), plain, max_size=3))
def test_parameters_of_notebooks_stay_values(parameters):
    "What papermill writes into the notebook is an assignment of a literal to each name, and that literal is the value."
    from papermill.translators import PythonTranslator
    given = answer(reproduce.plain_values, parameters)
    if given is None: assert not all(re.fullmatch("[A-Za-z_][A-Za-z_0-9]*", name) and not keyword.iskeyword(name) for name in parameters); return
    try: written = PythonTranslator.codify(given)
    except UnicodeEncodeError: return  # a surrogate: no file can hold it
    body = ast.parse(written).body
    assert [type(line) for line in body] == [ast.Assign] * len(given) and [line.targets[0].id for line in body] == list(given)
    for line, value in zip(body, given.values()):
        if not re.search("nan|inf", repr(value)): assert ast.literal_eval(line.value) == value
        else: assert {n.func.id for n in ast.walk(line) if isinstance(n, ast.Call)} <= {"float"}


# ---- documents ----

@pytest.mark.parametrize("name, content", [("a.jsonl", b'{"text": "x"}\n{"text": '), ("a.jsonl", b"[" * 50_000), ("a.jsonl", b'{"text": 5}\n'), ("a.jsonl", b'{"text": "\xff\xfe"}\n'), ("a.parquet", b"PAR1" + bytes(50) + b"PAR1"), ("a.jsonl.gz", b"\x1f\x8b\x08" + b"x" * 40), ("a.jsonl", b"")],
                         ids=lambda v: v if isinstance(v, str) else v[:12].decode("ascii", "replace"))
def test_documents(folder, name, content):
    (folder / name).write_bytes(content)
    assert answer(lambda: list(LocalSource(folder / name).documents()), named=name) is None


# ---- archives ----

def archives_of(folder):
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for i in range(3): z.writestr(f"p/{i}.txt", b"some text " * 50)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as t:
        for i in range(3): m = tarfile.TarInfo(f"p/{i}.txt"); m.size = 500; t.addfile(m, io.BytesIO(b"some text " * 50))
    (folder / "a.tar").write_bytes(gzip.decompress((folder / "a.tar.gz").read_bytes())); (folder / "a.tar.bz2").write_bytes(bz2.compress((folder / "a.tar").read_bytes()))


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar", "a.tar.bz2"])
@fuzz(60)
@given(data=st.data())
def test_archives_with_damaged_bytes(tmp_path_factory, name, data):
    folder = tmp_path_factory.mktemp("archives"); archives_of(folder)
    assert len(list(archive_members(folder / name, r".*\.txt"))) == 3
    (folder / name).write_bytes(data.draw(damaged((folder / name).read_bytes())))
    before = sorted(folder.iterdir())
    answer(lambda: list(archive_members(folder / name, ".*")), named=name)
    assert sorted(folder.iterdir()) == before


def test_bombs(folder, monkeypatch):
    "With a limit of 2 MiB in place of 2 GiB, which a test would wait for."
    monkeypatch.setattr("autoscale.registry._most_bytes", 1 << 21)
    raw = bytes(1 << 23)
    for packed in (gzip.compress(raw), bz2.compress(raw)):
        with pytest.raises(InputError, match="more than 2 GiB"): decompressed(packed)
        assert answer(decompressed, packed[:-9]) is None
    assert decompressed(gzip.compress(b"x" * 99)) == b"x" * 99
    header = tarfile.TarInfo("x"); header.type = tarfile.XHDTYPE; header.size = len(raw)  # what comes before a member: read whole by tarfile, before it is told of any member
    (folder / "b.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + raw))
    with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as z: z.writestr("a.txt", raw)
    for name in ("b.tar.gz", "b.zip"):
        with pytest.raises(InputError, match=f"{name}: refused, it unpacks to more than 2 GiB"): list(archive_members(folder / name, ".*"))


# ---- what is written: pages, tables, files of frameworks ----

NAMES = ["</script><script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onload='x", "a&lt;b", "-->", "]]>", "javascript:alert(1)", "{{7*7}}", "../../beside/kept.txt", "a\nb: 1", "a\r\n- x", "# x", "$(touch sprung)", "`id`", "; rm x", "a\\", "\"\"\"", "'''", "\u2028x", "\u202ex", "x\x1b[2J", "!!python/name:os",
         "*a", "&a", "a: b", "- a", "null", "NaN", "1", "a | b", "%s{0}", "x" * 3000]
names = st.one_of(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))


class Shape(HTMLParser):
    "The tags and the names of their attributes."
    def __init__(self, html): super().__init__(); self.tags = []; self.feed(html); self.close()
    def handle_starttag(self, tag, attrs): self.tags.append((tag, *(name for name, _ in attrs)))
    handle_startendtag = handle_starttag
    def handle_comment(self, data): self.tags.append("comment")


@fuzz(120)
@given(name=names, other=names)
def test_names_on_a_page_are_text(name, other):
    def page(a, b):
        chart = Chart((1, 10), (0, 1)); chart.dots([2], [.5], says=[a]); chart.line([1, 2], [0, 1])
        body = data_table([safe(a), safe(b)], [[safe(a), "1"]], label=a) + bullets([a, b]) + figure([("--c:var(--d0)", safe(a), chart.svg(a, b, a))], safe(b)) + html_table({a: [b], "z": [a]}, a)
        mixture = Mixture((f"{a} ", f"{b}  "), (1, 2), a)
        table = RunTable((a,), (f"{a} ", f"{b}  "), (b,), np.array([[5., 5.]]), np.array([[3.]]))
        return document("t", body + mixture._repr_html_() + table._repr_html_(), {a: {"color": "#112233"}})
    page_of = page(name, other)
    assert Shape(page_of).tags == Shape(page("one", "two")).tags and "alert(1)>" not in page_of
    lines = text_table({"domain": [name, other], "n": [1, 2]}).split("\n")
    assert len(lines) == 4 and all(line.isprintable() for line in lines)


class Plain(ast.NodeTransformer):
    "Code without what its literals say."
    def visit_Constant(self, node): return ast.Constant("" if isinstance(node.value, str) else 0)


def skeleton(code): return ast.dump(Plain().visit(ast.parse(code)))


def kinds(value): return [kinds(v) for v in value.values()] if isinstance(value, dict) else [kinds(v) for v in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("framework", FRAMEWORKS)
@fuzz(25)
@given(name=names, path=st.one_of(st.none(), names))
def test_names_and_paths_in_files_of_frameworks_are_text(tmp_path_factory, framework, name, path):
    folder = tmp_path_factory.mktemp("configs"); (folder / "inside").mkdir()
    def made(a, p):
        mixture = Mixture((a, "other domain"), (750, 250), a)
        return export_mixture(mixture, framework, paths={a: p} if p else None, tokens_per_document={a: 900, "other domain": 90}, sequence_length=10, available={a: 600, "other domain": 600})
    export = answer(made, name, path)
    if export is None: return
    plainly = made("web", "/data/web" if path else None)
    export.write(folder / "inside")
    assert {p.relative_to(folder / "inside").as_posix() for p in folder.rglob("*") if p.is_file()} == set(export.files) <= set(plainly.files)
    for file, text in export.files.items():
        if not file.startswith("data_"): assert "\r" not in text and "\x1b" not in text  # Megatron-LM's lists hold the paths as they are
        if file.endswith(".py"): assert skeleton(text) == skeleton(plainly.files[file])
        elif file.endswith((".yaml", ".yml")): assert kinds(yaml.safe_load(text)) == kinds(yaml.safe_load(plainly.files[file]))
        elif file.endswith(".json"): assert kinds(json.loads(text)) == kinds(json.loads(plainly.files[file]))
        elif file == "data_path.txt": assert len(shlex.split(text)) == len(shlex.split(plainly.files[file])) == 5
        elif file == "data_args.txt": assert len(text.split()) == 4
        else: raise AssertionError(f"{file} is written and not looked at")


@fuzz(60)
@given(name=names)
def test_names_of_configurations_of_runs_are_names_of_files(name):
    table = RunTable((f"{name} x3", f"{name} /3", f"{name}"), (name,), (), np.array([[5.], [6.], [7.]]), np.zeros((3, 0)))
    for file in run_configs(table): assert re.fullmatch(r"\d-[A-Za-z0-9.-]*", file) and "/" not in file


@fuzz(100)
@given(why=st.one_of(st.text(max_size=60), names, st.binary(max_size=30)))
def test_a_refusal_is_one_line(why):
    said = str(InputError(why)); assert said.isprintable() and len(said.splitlines()) <= 1
    import pickle
    assert str(pickle.loads(pickle.dumps(InputError(why)))) == said  # as it comes back from another process


@fuzz(150)
@given(text=st.one_of(st.text(max_size=20), st.from_regex(r"[0-9_,.]{1,30}(e[+-]?[0-9]{1,6})?[kmbtKMBT]?", fullmatch=True), st.sampled_from([str(v) if v not in (HUGE, -HUGE) else "9" * 4000 for v in VALUES])))
def test_sizes(text):
    found = answer(parse_tokens, text); assert found is None or (type(found) is int and found > 0)


@fuzz(60)
@given(value=st.one_of(values, plain))
def test_values_that_are_no_mixture_and_no_choice(value):
    for read in (mixture_from_dict, choice_from_dict, parse_tokens): answer(read, value)
    for key in MIXTURE: answer(mixture_from_dict, {**MIXTURE, key: value})
    for key in CHOICE: answer(choice_from_dict, {**CHOICE, key: value})
    answer(Mixture.from_weights, ["a", "b"], [value, 1], 10); answer(Mixture, ["a"], [value]); answer(Mixture, [value] if not isinstance(value, (dict, list)) else ["a", "a"], [1])


@fuzz(20)
@given(text=st.one_of(documents({"abc": [1, 2]}), damaged(b'{"abc": [1, 2]}')))
def test_notes_of_a_tracker(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("tracked"); (folder / "tensorboard.json").write_bytes(text)
    answer(Tracker, "tensorboard", folder, named="tensorboard.json")


# ---- the command line ----

@pytest.mark.parametrize("files, command", [
    ({"m.json": '{"domains": ["a\\nb", "a\\nb"], "tokens": [1, 2]}'}, ["export", "m.json", "--framework", "nemo"]), ({"m.json": "[" * 100_000}, ["export", "m.json", "--framework", "nemo"]), ({"m.json": '{"domains": ["a"], "tokens": [' + "9" * 4000 + "]}"}, ["export", "m.json", "--framework", "nemo"]),
    ({"m.json": '{"domains": ["a"], "tokens": [5]}', "p.json": '{"a": "x", "a": "y"}'}, ["export", "m.json", "--framework", "nemo", "--paths", "p.json"]), ({"m.json": '{"domains": ["a"], "tokens": [5]}', "t.json": '{"a": ' + "1" * 5000 + "}"}, ["export", "m.json", "--framework", "nemo", "--available", "t.json"]),
    ({"r.csv": "run,tokens.a\nx,\x1b[2J\n"}, ["fit", "r.csv"]), ({"r.json": "[" * 100_000}, ["fit", "r.json"]), ({"r.json": '[{"config": {"a": 1}, "config": {"a": 2}}]'}, ["project", "r.json", "--to", "1B"]), ({"r.csv": "run,tokens.a,loss.a\nx,5,3\n", "c.yml": BOMB}, ["fit", "r.csv", "--columns", "c.yml"]),
    ({"r.csv": "run,tokens.a\nx,640\n", "s.yml": "!!python/object/apply:os.system ['touch sprung']"}, ["sweep", "r.csv", "--store", "s", "--runs", "r", "--out", "o.csv", "--settings", "s.yml"]), ({"s/manifest.json": "[" * 100_000}, ["corpus", "info", "s"]), ({"s": "{}"}, ["corpus", "info", "s"]),
    ({"r.csv": "run,tokens.a,loss.a\nx,5,3\n"}, ["project", "r.csv", "--to", "1" * 5000])], ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "")
def test_commands_refuse_in_one_line(folder, monkeypatch, capfd, files, command):
    from autoscale.cli import main
    for name, text in files.items(): (folder / name).parent.mkdir(exist_ok=True); (folder / name).write_text(text)
    monkeypatch.chdir(folder); monkeypatch.setattr(sys, "argv", ["autoscale", *command])
    with pytest.raises(SystemExit) as end: main()
    out, err = capfd.readouterr()
    assert (end.value.code, out) == (1, "") and err.count("\n") == 1 and err.endswith("\n") and err[:-1].isprintable() and "Traceback" not in err, err
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == set(files)


# ---- what the package does not do ----

CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pd.eval", "marshal.loads", "shelve.open", "dill.loads", "joblib.load"}
UNPACKS = {"zipfile.ZipFile", "tarfile.open", "zipfile.Path", "shutil.unpack_archive", "gzip.decompress", "bz2.decompress", "lzma.decompress", "zlib.decompress", "gzip.open", "bz2.open", "lzma.open"}


def faults(code: str):
    "What must not stand in the package's code, line by line."
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for module in [a.name for a in node.names] + [getattr(node, "module", None) or ""]:
                if module.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"): yield node.lineno, module
        if not isinstance(node, ast.Call): continue
        called = ast.unparse(node.func)
        if called in CALLS: yield node.lineno, called
        if called.endswith((".extractall", ".extract")) and not called.startswith(("str.", "self.")): yield node.lineno, called
        for k in node.keywords:
            if k.arg in ("shell", "trust_remote_code", "allow_pickle") and not (isinstance(k.value, ast.Constant) and k.value.value is False): yield node.lineno, f"{called}({k.arg}={ast.unparse(k.value)})"
            if k.arg == "Loader" and ast.unparse(k.value) not in ("yaml.SafeLoader", "yaml.CSafeLoader"): yield node.lineno, f"{called}(Loader={ast.unparse(k.value)})"


def test_what_is_looked_for_is_found():
    bad = ["import pickle", "from joblib import load", "eval('1')", "exec(x)", "torch.load(p)", "yaml.load(t)", "yaml.compose(t, Loader=yaml.Loader)", "f(x, trust_remote_code=True)", "f(trust_remote_code=flag)", "subprocess.run('x', shell=True)", "np.load(p, allow_pickle=True)", "t.extractall(p)", "os.system('x')"]
    assert all(list(faults(code)) for code in bad) and not list(faults("model.eval(); yaml.safe_load(t); f(trust_remote_code=False); np.load(p); re.compile('x')"))


@pytest.mark.parametrize("path", sorted((ROOT / "autoscale").glob("*.py")), ids=lambda p: p.name)
def test_modules_load_nothing_that_runs(path): assert list(faults(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda p: p.name)
def test_notebooks_load_nothing_that_runs(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code": continue
        if cell["source"][:1] and cell["source"][0].startswith("%%"): continue  # of a shell
        lines = [line if not line.lstrip().startswith(("%", "!")) else "pass\n" for line in cell["source"]]  # magics are no Python
        assert list(faults("".join(lines))) == [], cell["id"]


def test_archives_are_opened_in_one_place():
    "Every zip, tar and compressed file that was fetched goes through chapter 01b's checked functions."
    for path in sorted((ROOT / "autoscale").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef): continue
            used = {ast.unparse(n) for n in ast.walk(node) if isinstance(n, ast.Attribute)} & UNPACKS
            allowed = {"decompressed", "_zip_members", "_tar_members", "_abstracts"} if path.name == "registry.py" else set()
            assert not used or node.name in allowed, f"{path.name}: {node.name} uses {used}"


def test_what_is_installed_is_what_is_pinned():
    "The versions that are audited are those of constraints.txt; where this environment was made with them, it has no other."
    import sysconfig
    from importlib.metadata import distributions
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line and not line.startswith("#"))
    plain_name = lambda name: re.sub(r"[-_.]+", "-", name).lower()
    here = {plain_name(d.metadata["Name"]): d.version for d in distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]) if d.metadata["Name"]}  # not what setuptools carries inside it, which joins the path when it is imported
    if here.get("hypothesis") != {plain_name(k): v for k, v in pins.items()}["hypothesis"]: pytest.skip("not installed from constraints.txt")
    other = {name: (version, here[plain_name(name)]) for name, version in pins.items() if plain_name(name) in here and here[plain_name(name)].split("+")[0] != version.split("+")[0]}
    assert not other, f"pinned, installed: {other}"


def test_a_fresh_process_reads_hostile_files_the_same(folder):
    "Without the modules that the tests have loaded: exit status 1 and one line."
    (folder / "m.json").write_text('{"domains": ["a\\nb", "a\\nb"], "tokens": [1, 2]}')
    done = subprocess.run([sys.executable, "-c", "from autoscale.cli import main; main()", "export", "m.json", "--framework", "nemo"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr == "autoscale: m.json: domain 'a\\nb' is named twice\n"


def test_parsers_keep_what_is_good():
    good = {"a": [1, 2.5, None, True, "ä\u2028"], "b": {"c": []}}
    assert parse_json(json.dumps(good)) == parse_json(json.dumps(good).encode()) == parse_yaml(json.dumps(good)) == good
