"""RedPajama's way into a store, on a stand-in of its layout and columns: filters, what is held out, workers, a kill at every note, memory. The gigabyte is in test_soak_corpus.py."""
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from standin import SUBSETS, rows, source, wanted, write

from autoscale import corpus, hub
from autoscale.corpus import Document, build_store, load_tokenizer, open_store, train_tokenizer, work_key
from autoscale.hub import HubDocuments, stream_plan
from autoscale.mixture import InputError
from autoscale.model import held_out
from autoscale.reproduce import execute, load_profile, parameters_of

PAPER = Path(__file__).resolve().parents[1] / "nbs/paper"

SIZE = 250_000
FORMS = {"c4": "jsonl", "arxiv": "jsonl"}  # the others are Parquet


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "1.5 MB: six domains, four of them in Parquet and two in JSON lines, three files each."
    folder = tmp_path_factory.mktemp("standin")
    for subset in SUBSETS: write(folder, subset, SIZE, group=20, form=FORMS.get(subset, "parquet"))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(wanted("c4", 100_000), 600).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def domains(root): return {s: [source(root, s, FORMS.get(s, "parquet"))] for s in SUBSETS}


@pytest.fixture(scope="module")
def store(tmp_path_factory, domains, tokenizer): return build_store(tmp_path_factory.mktemp("whole") / "store", domains, tokenizer, progress=False)


def bytes_of(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def documents(store, domain, split) -> list[str]:
    tokens, decode = store.tokens(domain, split), store.tokenizer().backend_tokenizer.decode_batch
    return decode([part[:-1].tolist() for part in np.split(np.asarray(tokens), np.flatnonzero(tokens == store.eot) + 1)[:-1]])


def test_the_store_has_what_the_filters_leave_in_hash_order(store):
    "Of each domain the rows of 1000 characters or more, English ones of Wikipedia, once; validation is where the hash order begins."
    for subset in SUBSETS:
        kept = wanted(subset, SIZE); once = sorted(set(kept), key=lambda t: work_key(Document(t), "autoscale 0"))
        assert documents(store, subset, "valid") + documents(store, subset, "train") == once and len(once) < len(kept) + (subset == "wikipedia")
        assert sum(len(t.encode()) for t in documents(store, subset, "valid")) >= .05 * sum(len(t.encode()) for t in once)


def test_so_many_sequences_are_held_out_of_every_domain_and_not_a_document_more(store, domains, tokenizer, tmp_path):
    more = build_store(tmp_path / "s", domains, tokenizer, validation_tokens=200 * 64, progress=False)
    for d in SUBSETS:
        valid, tokens = documents(more, d, "valid"), more.tokens(d, "valid")
        assert held_out(more, d, 64, 200).shape == (200, 64) and len(tokens) >= 12_800
        before = int(np.flatnonzero(tokens == more.eot)[-2]) + 1 if len(valid) > 1 else 0  # without the last document: either too few tokens or what the fraction takes anyway
        assert before < 12_800 or len(valid) == len(documents(store, d, "valid"))
        assert valid + documents(more, d, "train") == documents(store, d, "valid") + documents(store, d, "train")  # the order is the same, only the border moved
    assert more.manifest["request"]["validation_tokens"] == 12_800 and "validation_tokens" not in store.manifest["request"]
    with pytest.raises(InputError, match=r"'common_crawl': all its [\d,]+ tokens would be held out.*validation_tokens than 10,000,000"): build_store(tmp_path / "t", domains, tokenizer, validation_tokens=10 ** 7, progress=False)
    with pytest.raises(InputError, match="give a tokenizer"): build_store(tmp_path / "t", domains, validation_tokens=64, progress=False)
    for wrong in ({"workers": 0}, {"workers": 1.5}, {"validation_tokens": -1}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} is"): build_store(tmp_path / "t", domains, tokenizer, progress=False, **wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_works_of_several_documents_are_held_out_whole(tmp_path, tokenizer):
    class Editions:
        name, version, licence, sha256 = "editions", "1", "none", "0"
        def documents(self): return (Document(t, f"work {i % 12}") for i, t in enumerate(dict.fromkeys(wanted("c4", SIZE))))
    made = build_store(tmp_path / "s", {"c4": [Editions()]}, tokenizer, validation_tokens=9_000, progress=False)
    where = {t: i % 12 for i, t in enumerate(dict.fromkeys(wanted("c4", SIZE)))}
    sides = [{where[t] for t in documents(made, "c4", s)} for s in ("valid", "train")]
    assert len(made.tokens("c4", "valid")) >= 9_000 and all(sides) and not sides[0] & sides[1]


def test_two_processes_write_the_bytes_of_one(store, domains, tokenizer, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(corpus, "_batches", lambda spool, domain, after, size, cut=corpus._batches: cut(spool, domain, after, 20_000))  # many small batches in flight
        build_store(tmp_path / "two", domains, tokenizer, workers=2, progress=False)
    assert bytes_of(tmp_path / "two") == bytes_of(store.path)


def test_a_tokenizer_that_is_not_of_the_library_gives_the_same_tokens(store, domains, tokenizer, tmp_path, monkeypatch):
    "The way of `transformers`' own tokenizers, here taken by one of the library's."
    monkeypatch.setattr(type(load_tokenizer(tokenizer)), "is_fast", False)
    assert build_store(tmp_path / "s", domains, tokenizer, workers=2, progress=False).hash == store.hash


# ---------------------------------------------------------------- kills
class Killed(BaseException): pass


@pytest.mark.parametrize("given", [True, False], ids=["tokenizer given", "tokenizer trained"])
def test_a_build_that_is_stopped_at_any_note_ends_with_the_same_bytes(given, domains, tokenizer, tmp_path, monkeypatch):
    "Stopped before and after each note, with files that are longer than the note says. Nothing is read or encoded twice but what came after the last note."
    few = {d: domains[d] for d in ("wikipedia", "arxiv")}; settings = {"tokenizer": tokenizer} if given else {"vocab_size": 400}
    monkeypatch.setattr(corpus, "_note", 60_000); monkeypatch.setattr(corpus, "_batches", lambda spool, domain, after, size, cut=corpus._batches: cut(spool, domain, after, 9_000))
    read, take = [], HubDocuments.__next__
    monkeypatch.setattr(HubDocuments, "__next__", lambda self: (read.append(1), take(self))[1])
    whole = build_store(tmp_path / "whole", few, progress=False, **settings); expected, count, notes = bytes_of(whole.path), len(read), []
    once = corpus._Spool.note
    stop = {}
    def note(self, name, value, *files):
        notes.append(name)
        if stop.get("before") == len(notes): self.table.close(); after(files)
        once(self, name, value, *files)
        if stop.get("after") == len(notes): after(files)
    def after(files):
        for f in files: f.write(b"more than was noted"); f.flush()
        raise Killed
    monkeypatch.setattr(corpus._Spool, "note", note); build_store(tmp_path / "counted", few, progress=False, **settings); total = len(notes); shutil.rmtree(tmp_path / "counted")
    assert total >= 12
    for when, at in itertools.product(("before", "after"), range(1, total + 1)):
        if at % (2 if given else 4) != (when == "before"): continue  # each note once; where a tokenizer is trained, every second
        notes.clear(); read.clear(); stop[when] = at
        with pytest.raises(Killed): build_store(tmp_path / "s", few, progress=False, **settings)
        stop.clear()
        assert list(tmp_path.glob(".s.building-*")) and not (tmp_path / "s").exists()
        build_store(tmp_path / "s", few, progress=False, **settings)
        assert bytes_of(tmp_path / "s") == expected and len(notes) <= total + 1 and len(read) <= count + 40 and not list(tmp_path.glob(".s.building-*"))
        shutil.rmtree(tmp_path / "s")


def test_killed_with_its_workers_and_continued(store, domains, tokenizer, tmp_path):
    "SIGKILL while two processes encode: they end too, and this one finishes what was left."
    script = textwrap.dedent("""
        import json, os, signal, sys
        from autoscale import corpus
        from autoscale.hub import HubSource
        if __name__ == "__main__":
            corpus._note, once, left = 60_000, corpus._Spool.note, [int(sys.argv[2])]
            def note(self, name, *rest):
                once(self, name, *rest)
                if name.startswith(sys.argv[1]): left[0] -= 1
                if not left[0]: print("", flush=True); os.kill(os.getpid(), signal.SIGKILL)
            corpus._Spool.note = note
            kept = json.loads(sys.argv[3])
            domains = {d: [HubSource(**{**s, "keep": s["keep"] and tuple(s["keep"])})] for d, s in kept.items()}
            corpus.build_store(sys.argv[4], domains, sys.argv[5], workers=2, progress=False)
    """)
    (tmp_path / "script.py").write_text(script)
    kept = json.dumps({d: {k: v for k, v in vars(s).items() if not k.startswith("_")} for d, (s,) in domains.items()})
    run = subprocess.Popen([sys.executable, tmp_path / "script.py", "tokens", "3", kept, tmp_path / "s", tokenizer], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL, errors
    for _ in range(100):
        if not (left := [p for p in psutil.pids() if _session(p) == run.pid]): break
        time.sleep(.1)
    assert not left and len(list(tmp_path.glob(".s.building-*"))) == 1
    assert build_store(tmp_path / "s", domains, tokenizer, progress=False).hash == store.hash and bytes_of(tmp_path / "s") == bytes_of(store.path)
    assert {p.name for p in tmp_path.iterdir()} == {"script.py", "s"}


def _session(pid: int) -> int:
    try: return os.getsid(pid)
    except ProcessLookupError: return 0


def test_killed_between_the_manifest_and_the_name(store, domains, tokenizer, tmp_path, monkeypatch):
    def rename(a, b, really=os.rename):
        if str(b) == str(tmp_path / "s"): raise Killed
        really(a, b)
    with monkeypatch.context() as m:
        m.setattr(os, "rename", rename)
        with pytest.raises(Killed): build_store(tmp_path / "s", domains, tokenizer, progress=False)
    monkeypatch.setattr(corpus, "_Spool", None)  # nothing is left to be done
    assert build_store(tmp_path / "s", domains, tokenizer, progress=False).hash == store.hash and bytes_of(tmp_path / "s") == bytes_of(store.path)


def test_what_a_build_of_another_request_left_is_not_taken(store, domains, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_note", 60_000); once = corpus._Spool.note
    def note(self, name, *rest):
        once(self, name, *rest)
        if name == "tokens c4": raise Killed
    with monkeypatch.context() as m:
        m.setattr(corpus._Spool, "note", note)
        with pytest.raises(Killed): build_store(tmp_path / "s", domains, tokenizer, seed=3, progress=False)
    assert build_store(tmp_path / "s", domains, tokenizer, progress=False).hash == store.hash and bytes_of(tmp_path / "s") == bytes_of(store.path)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_stream_goes_on_from_every_document(form, root, tmp_path):
    "Its state survives JSON; a limit counts what came before it."
    write(tmp_path, "github", 60_000, files=3, group=7, form=form)
    plain = source(tmp_path, "github", form); texts = [d.text for d in plain.documents()]
    for s, expected in ((plain, texts), (replace(plain, limit_bytes=sum(len(t) for t in texts[:-2])), texts[:-2]), (replace(plain, block=300, random_block=True), None)):
        expected = expected or [d.text for d in s.documents()]
        stream, states = s.documents(), []
        for document in stream: states.append((document.text, json.dumps(stream.state())))
        assert [t for t, _ in states] == expected and len(expected) > 8
        for n, (_, state) in enumerate(states, 1): assert [d.text for d in s.documents(json.loads(state))] == expected[n:]


def test_a_source_that_breaks_off_keeps_what_was_read(store, domains, tokenizer, tmp_path):
    "Of a source with a state and of one without; nothing is kept where nothing was read, and a wrong column is no such break."
    asked = []
    class Flaky:
        name, version, licence, sha256 = "flaky", "1", "none", "0"
        def documents(self):
            asked.append(len(asked))
            for i, t in enumerate(wanted("c4", SIZE)):
                if i == 20 * len(asked): raise InputError("the line is dead")
                yield Document(t)
    whole = len(wanted("c4", SIZE)) // 20 + 1
    for _ in range(whole - 1):
        with pytest.raises(InputError, match="the line is dead"): build_store(tmp_path / "s", {"c4": [Flaky()]}, tokenizer, progress=False)
        assert len(list(tmp_path.glob(".s.building-*"))) == 1
    made = build_store(tmp_path / "s", {"c4": [Flaky()]}, tokenizer, progress=False)
    assert len(asked) == whole > 3 and made.manifest["domains"]["c4"]["train"]["sha256"] == store.manifest["domains"]["c4"]["train"]["sha256"]
    away = replace(domains["c4"][0], mirror=None)
    with pytest.raises(InputError, match="the hub cannot be reached"): build_store(tmp_path / "t", {"c4": [away]}, tokenizer, progress=False)
    with pytest.raises(InputError, match="a row has no body"): build_store(tmp_path / "t", {"c4": [replace(domains["c4"][0], text_field="body")]}, tokenizer, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
    with pytest.raises(InputError, match="the hub cannot"): build_store(tmp_path / "t", {"github": domains["github"], "c4": [away]}, tokenizer, progress=False)
    assert len(list(tmp_path.glob(".t.building-*"))) == 1


# ---------------------------------------------------------------- what it takes
def test_peak_memory_does_not_grow_with_the_documents(tmp_path, tokenizer):
    "Of a process that reads, orders and encodes: 10 thousand short documents, and 120 thousand. Kept in lists and sets, their places alone would take 36 MB."
    script = textwrap.dedent("""
        import sys
        from autoscale.corpus import Document, build_store
        class Numbers:
            name, version, licence, sha256 = "numbers", "1", "none", "0"
            def documents(self): return (Document(f"the number {i}") for i in range(int(sys.argv[1])))
        store = build_store(sys.argv[1], {"numbers": [Numbers()]}, sys.argv[2], progress=False)
        print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # of this program; ru_maxrss begins with that of the process that started it
    """)
    few, many = (int(subprocess.run([sys.executable, "-c", script, str(n), tokenizer], cwd=tmp_path, capture_output=True, text=True, check=True).stdout) / 1024 for n in (10_000, 120_000))
    print(f"peak {few:.0f} MB, then {many:.0f} MB")
    assert many - few < 30


def test_the_plan_says_what_the_disk_must_hold_and_refuses_where_it_does_not(root, domains, tokenizer, tmp_path, monkeypatch):
    text = sum(len(r.encode()) for d in SUBSETS for r in wanted(d, SIZE))
    plan = stream_plan(domains, store=tmp_path / "deep" / "store", tokenizer=tokenizer)
    assert "B are free" in plan[1] and "2 bytes each" in plan[1] and "of one domain until it is tokens" in plan[1] and "measured now" in plan[2]
    bound = sum(hub._at_most(s) for (s,) in domains.values())
    assert text < bound < 3 * text  # all that the files have, though a domain's limit is 5 GB; JSON lines are counted with all they have beside the text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 ** 9, 10 ** 9, 100_000))
    with pytest.raises(InputError, match=r"building it takes up to .* of disk, and .* are free") as e: stream_plan(domains, store=tmp_path / "store", tokenizer=tokenizer)
    assert "\n" not in str(e.value) and "--into DIR" in str(e.value)
    left = tmp_path / ".store.building-here-1" / "scratch"; left.mkdir(parents=True); (left / "c4.text").write_bytes(b"x" * 3 * bound)
    assert stream_plan(domains, store=tmp_path / "store", tokenizer=tokenizer)  # what a killed build has written counts as free: it is gone on with
    (tmp_path / "store").mkdir(); assert stream_plan(domains, store=tmp_path / "store", tokenizer=tokenizer) == []


def test_the_plan_s_disk_is_not_less_than_what_a_build_takes(root, domains, tokenizer, tmp_path, monkeypatch):
    most, once = [0], corpus._Spool.note
    def note(self, *rest): once(self, *rest); most[0] = max(most[0], sum(f.stat().st_size for f in self.folder.parent.rglob("*") if f.is_file()))
    monkeypatch.setattr(corpus._Spool, "note", note); monkeypatch.setattr(corpus, "_note", 50_000)
    store = build_store(tmp_path / "s", domains, tokenizer, progress=False)
    sizes = {s: sum(e[s]["bytes"] for e in store.manifest["domains"].values()) for s in ("train", "valid")}
    text, tokens = sum(sizes.values()), 2 * sum(e[s]["tokens"] for e in store.manifest["domains"].values() for s in sizes)
    assert most[0] < tokens + text / 2 + 1_000_000  # never the text of all domains beside their tokens
    assert not open_store(tmp_path / "s").path.joinpath("scratch").exists()


def test_stage_1_of_the_paper_profile_makes_the_store_from_a_mirror(root, tokenizer, tmp_path, monkeypatch):
    "The notebook with the profile's own settings, but for a tokenizer in a folder, fewer held-out tokens and smaller scales: plan, store, manifest, table."
    given = load_profile("paper", {"tokenizer": str(tokenizer), "validation_tokens": 6_400, "scales": [64_000, 128_000]})
    assert given["evaluation_sequences"] == 10_000 and load_profile("paper")["validation_tokens"] == 10_000 * given["context"] and load_profile("paper-encoder")["validation_tokens"] == 10_000 * load_profile("paper-encoder")["context"]
    mirror = tmp_path / "mirror"; shutil.copytree(root, mirror)
    for d in FORMS:  # the hub has Parquet only
        shutil.rmtree(mirror / "togethercomputer/RedPajama-Data-1T" / d); write(mirror, d, SIZE, group=20)
    books = mirror / "emozilla/pg19/data/train-00000-of-00023-2b13c68dbeba63b5.parquet"; books.parent.mkdir(parents=True)
    pq.write_table(pa.table({"short_book_title": ["a"] * 9, "publication_date": [1900] * 9, "url": [""] * 9, "text": [r["text"] * 20 for r in itertools.islice(rows("github", 10 ** 6), 9)]}), books)
    monkeypatch.setenv("AUTOSCALE_HUB_MIRROR", str(mirror))
    notebook = PAPER / "stage-1-corpus.ipynb"
    execute(notebook, tmp_path / "executed.ipynb", {k: v for k, v in {**given, "store": str(tmp_path / "store"), "records": str(tmp_path), "out": str(tmp_path)}.items() if k in parameters_of(notebook)}, show=False)
    made = open_store(tmp_path / "store"); said = (tmp_path / "executed.ipynb").read_text()
    assert made.domains == ("common_crawl", "c4", "github", "books", "wikipedia", "arxiv", "stackexchange") and min(len(made.tokens(d, "valid")) for d in made.domains) >= 6_400
    assert made.manifest["request"]["validation_tokens"] == 6_400 and open_store(tmp_path / "store.json").hash == made.hash
    assert "of text from a mirror (common_crawl" in said and "B are free" in said and "measured now" in said
