"""Corpus: local files, the split, the tokenizer, the store and its damages, and registry packages (one is really downloaded)."""
import json, os, random, shutil, signal, subprocess, sys, textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from autoscale import corpus
from autoscale.corpus import Document, LocalSource, build_store, open_store, stdlib_sources, train_tokenizer, validation_size, work_key
from autoscale.mixture import InputError

profile = settings(deadline=None, derandomize=True)


def texts_of(store, domain, split):
    tokens, tokenizer = store.tokens(domain, split), store.tokenizer()
    ends = np.flatnonzero(tokens == store.eot) + 1
    assert ends[-1] == len(tokens)
    return [tokenizer.decode(part[:-1].tolist(), clean_up_tokenization_spaces=False) for part in np.split(np.asarray(tokens), ends)[:-1]]


def write_jsonl(path, texts, field="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({field: t, "meta": {"n": i}}) + "\n" for i, t in enumerate(texts)), "utf-8")
    return path


@pytest.fixture(scope="session")
def stdlib_texts(tmp_path_factory):
    sources = stdlib_sources(tmp_path_factory.mktemp("stdlib"), domain_bytes=200_000)
    return {domain: [d.text for s in sources[domain] for d in s.documents()] for domain in sources}


@pytest.fixture(scope="session")
def small(tmp_path_factory, stdlib_texts):
    "A store of two domains, and what went into it."
    folder = tmp_path_factory.mktemp("small")
    domains = {d: [LocalSource(write_jsonl(folder/f"{d}.jsonl", stdlib_texts[d]), licence="PSF-2.0")] for d in ("python_docs", "python_code")}
    return build_store(folder/"store", domains, vocab_size=400, progress=False), domains


# ---------------------------------------------------------------- local files
awkward = ["plain", "naïve ☃ 数学\n\n  two  spaces\ttab", "a<|endoftext|>b", "'quotes' and \"more\"", "trailing newline\n", "x" * 5000]

def test_jsonl_parquet_and_text_give_the_same_documents(tmp_path):
    import pyarrow as pa, pyarrow.parquet as pq
    write_jsonl(tmp_path/"a.jsonl", awkward, "content")
    pq.write_table(pa.table({"content": awkward}), tmp_path/"a.parquet")
    (tmp_path/"texts"/"deep").mkdir(parents=True)
    for i, text in enumerate(awkward): (tmp_path/"texts"/("deep" if i % 2 else "")/f"{i} [a?].txt").write_text(text, "utf-8")
    for source in (LocalSource(tmp_path/"a.jsonl", text_field="content"), LocalSource(tmp_path/"a.parquet", text_field="content"), LocalSource(tmp_path/"texts"),
                   LocalSource(tmp_path/"texts"/"**"/"*.txt")):
        assert sorted(d.text for d in source.documents()) == sorted(awkward)

def test_compressed_jsonl_and_a_glob_over_shards(tmp_path):
    import gzip
    for i in range(3): (tmp_path/f"part-{i}.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": f"shard {i}"}).encode()))
    assert sorted(d.text for d in LocalSource(tmp_path/"part-*.jsonl.gz").documents()) == ["shard 0", "shard 1", "shard 2"]

def test_a_local_source_is_fixed_by_its_content(tmp_path):
    a, b = write_jsonl(tmp_path/"x"/"a.jsonl", awkward), write_jsonl(tmp_path/"y"/"a.jsonl", awkward)
    assert LocalSource(a).sha256 == LocalSource(b).sha256
    b.write_text(b.read_text() + '{"text": "more"}\n')
    assert LocalSource(a).sha256 != LocalSource(b).sha256

@pytest.mark.parametrize("make, says", [
    (lambda f: f/"nowhere.jsonl", "no files match"),
    (lambda f: write_jsonl(f/"a.jsonl", awkward, "body"), "its columns are body, meta"),
    (lambda f: (f/"empty.jsonl").write_text("") or f/"empty.jsonl", "empty, there is no document in it"),
    (lambda f: (f/"cut.jsonl").write_text('{"text": "on') and f/"cut.jsonl", "cannot be read as json"),
    (lambda f: (f/"cut.parquet").write_bytes(b"PAR1 no") and f/"cut.parquet", "cannot be read as parquet"),
    (lambda f: (f/"latin.txt").write_bytes("né".encode("latin-1")) and f/"latin.txt", "cannot be read as text"),
    (lambda f: [write_jsonl(f/"m"/"a.jsonl", awkward), (f/"m"/"b.txt").write_text("x")] and f/"m", "different formats"),
])
def test_unreadable_local_files_are_named(tmp_path, make, says):
    path = make(tmp_path)
    with pytest.raises(InputError, match=says) as e: list(LocalSource(path).documents())
    assert str(path) in str(e.value) and "\n" not in str(e.value)


# ---------------------------------------------------------------- the split
works = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 1000)), min_size=2, max_size=60)

@profile
@given(works, st.floats(.01, .99))
def test_split_takes_whole_works_at_least_one_never_all(rows, fraction):
    rows.sort(); keys, sizes = [bytes([k]) for k, _ in rows], [s for _, s in rows]
    if len(set(keys)) < 2:
        with pytest.raises(InputError, match="at least 2"): validation_size(keys, sizes, fraction)
        return
    n = validation_size(keys, sizes, fraction)
    assert 0 < n < len(rows) and not set(keys[:n]) & set(keys[n:])
    if len(set(keys[n:])) > 1: assert sum(sizes[:n]) >= fraction * sum(sizes)
    last = keys.index(keys[n-1])  # one work less would not have been enough
    assert last == 0 or sum(sizes[:last]) < fraction * sum(sizes)

@profile
@given(st.text(), st.text(), st.text(min_size=1))
def test_documents_of_one_work_stand_together(a, b, work):
    assert work_key(Document(a, work), "s") == work_key(Document(b, work), "s") != work_key(Document(a, work), "t")
    assert (work_key(Document(a), "s") == work_key(Document(b), "s")) == (a == b)

@pytest.fixture(scope="session")
def words(): return ["".join(random.Random(i).choices("abcdef ", k=200)) + str(i) for i in range(300)]

def test_split_depends_on_neither_order_nor_neighbours(tmp_path, words):
    shuffled = random.Random(1).sample(words, len(words))
    a = build_store(tmp_path/"a", {"d": [LocalSource(write_jsonl(tmp_path/"a.jsonl", words))]}, vocab_size=300, progress=False)
    b = build_store(tmp_path/"b", {"d": [LocalSource(write_jsonl(tmp_path/f"b{i}.jsonl", shuffled[i::2])) for i in (1, 0)]}, vocab_size=300, progress=False)
    assert a.hash == b.hash  # the same bytes, from another order and other files
    more = build_store(tmp_path/"c", {"d": [LocalSource(write_jsonl(tmp_path/"c.jsonl", words + [w[::-1] for w in words]))]}, vocab_size=300, progress=False)
    held, held_now = set(texts_of(a, "d", "valid")), set(texts_of(more, "d", "valid")) & set(words)
    assert held <= held_now or held_now <= held  # with a domain twice as large the same documents come first
    assert build_store(tmp_path/"e", {"d": [LocalSource(tmp_path/"a.jsonl")]}, vocab_size=300, seed=1, progress=False).hash != a.hash

def test_exact_duplicates_are_dropped_over_all_domains(tmp_path, words):
    domains = {"first": [LocalSource(write_jsonl(tmp_path/"1.jsonl", words[:100] * 2))], "second": [LocalSource(write_jsonl(tmp_path/"2.jsonl", [*words[50:200], "", " \n"]))]}
    store = build_store(tmp_path/"s", domains, vocab_size=300, progress=False)
    parts = {(d, s): texts_of(store, d, s) for d in store.domains for s in ("train", "valid")}
    assert sorted(t for p in parts.values() for t in p) == sorted(words[:200])
    assert sorted(parts["first", "train"] + parts["first", "valid"]) == sorted(words[:100])
    assert all(parts.values())

def test_a_work_is_never_on_both_sides(tmp_path, words):
    class Editions:
        name, version, licence, sha256 = "editions", "1", "none", "0"
        def documents(self): return (Document(w, f"work {i % 40}") for i, w in enumerate(words))
    store = build_store(tmp_path/"s", {"books": [Editions()]}, vocab_size=300, progress=False)
    sides = [{words.index(t) % 40 for t in texts_of(store, "books", s)} for s in ("train", "valid")]
    assert not sides[0] & sides[1] and sides[0] | sides[1] == set(range(40))

def test_what_needs_no_text_is_refused_before_any_is_read(tmp_path):
    class Unread:
        name, version, licence, sha256 = "unread", "1", "none", "0"
        def documents(self): raise AssertionError("the text was read")
    for wrong, says in (({"vocab_size": 100}, "vocab_size is 100"), ({"vocab_size": "abc"}, "vocab_size is 'abc'"), ({"validation_fraction": 1.5}, "validation_fraction is 1.5"), ({"validation_fraction": "x"}, "validation_fraction is 'x'"),
                        ({"tokenizer": tmp_path/"none"}, "tokenizer .* cannot be loaded")):
        with pytest.raises(InputError, match=says): build_store(tmp_path/"s", {"d": [Unread()]}, progress=False, **wrong)
    assert not list(tmp_path.iterdir())

def test_a_domain_of_one_document_is_refused(tmp_path):
    with pytest.raises(InputError, match="'d': 1 distinct documents"):
        build_store(tmp_path/"s", {"d": [LocalSource(write_jsonl(tmp_path/"a.jsonl", ["once", "once"]))]}, progress=False)
    assert not (tmp_path/"s").exists() and not list(tmp_path.glob(".s*"))


# ---------------------------------------------------------------- tokenizer and store
@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_trainings_give_the_identical_tokenizer(tmp_path, stdlib_texts, algorithm):
    "Hash tables are seeded anew in every process, and for every table: two trainings in one process see it too."
    for name in "abc": train_tokenizer(stdlib_texts["python_docs"], 500, algorithm).save_pretrained(tmp_path/name)
    files = sorted(f.name for f in (tmp_path/"a").iterdir())
    assert files and all((tmp_path/"a"/f).read_bytes() == (tmp_path/other/f).read_bytes() for f in files for other in "bc")

def test_store_holds_every_document_unchanged(small, stdlib_texts):
    store, _ = small
    for domain in store.domains:
        assert sorted(texts_of(store, domain, "train") + texts_of(store, domain, "valid")) == sorted(set(stdlib_texts[domain]))
        for split in ("train", "valid"):
            entry, texts = store.manifest["domains"][domain][split], texts_of(store, domain, split)
            assert entry["documents"] == len(texts) and entry["bytes"] == sum(len(t.encode()) for t in texts)
            assert entry["tokens"] == len(store.tokens(domain, split)) and store.bytes_per_token(domain, split) == entry["bytes"] / entry["tokens"]
    assert store.available() == {d: len(store.tokens(d, "train")) for d in store.domains}
    with pytest.raises(ValueError): store.tokens("python_docs", "train")[0] = 1
    with pytest.raises(InputError, match="python_docs, python_code"): store.tokens("books", "train")
    with pytest.raises(InputError, match="test"): store.tokens("python_docs", "test")

def test_end_of_text_inside_a_document_is_text(tmp_path):
    store = build_store(tmp_path/"s", {"d": [LocalSource(write_jsonl(tmp_path/"a.jsonl", awkward))]}, vocab_size=300, progress=False)
    assert sum(int((store.tokens("d", s) == store.eot).sum()) for s in ("train", "valid")) == len(awkward)
    assert sorted(texts_of(store, "d", "train") + texts_of(store, "d", "valid")) == sorted(awkward)

def test_building_twice_gives_identical_bytes(small, tmp_path):
    store, domains = small
    again = build_store(tmp_path/"again", domains, vocab_size=400, progress=False)
    files = sorted(str(f.relative_to(store.path)) for f in store.path.rglob("*") if f.is_file())
    assert files == sorted(str(f.relative_to(again.path)) for f in again.path.rglob("*") if f.is_file())
    for f in files: assert (store.path/f).read_bytes() == (again.path/f).read_bytes(), f
    assert not [f.name for f in tmp_path.iterdir() if f.name != "again"]  # no scratch is left

def test_the_same_request_opens_and_another_is_refused(small):
    store, domains = small
    before = (store.path/"manifest.json").stat().st_mtime_ns
    assert build_store(store.path, domains, vocab_size=400, progress=False).hash == store.hash
    assert (store.path/"manifest.json").stat().st_mtime_ns == before
    for other, says in (({"vocab_size": 401}, "vocab_size"), ({"seed": 1}, "seed"), ({"validation_fraction": .1}, "validation_fraction"), ({"tokenizer": store.path/"tokenizer"}, "tokenizer")):
        with pytest.raises(InputError, match=f"another {says}.*; delete the folder {store.path} .*--into DIR"):
            build_store(store.path, domains, **{"vocab_size": 400, "progress": False, **other})
    with pytest.raises(InputError, match="domains"): build_store(store.path, {"python_docs": domains["python_docs"]}, vocab_size=400, progress=False)

def test_any_transformers_tokenizer_and_32_bits(small, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    vocabulary = {w: i for i, w in enumerate(["[UNK]", "[SEP]", *map(str, range(70_000)), "self"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")); words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", sep_token="[SEP]").save_pretrained(tmp_path/"words")
    store = build_store(tmp_path/"s", small[1], tokenizer=tmp_path/"words", progress=False)
    tokens = store.tokens("python_code", "train")
    assert (tokens.dtype.itemsize, store.vocab_size, store.eot) == (4, 70_003, 1) and tokens.max() == vocabulary["self"]
    assert (tokens == store.eot).sum() == store.manifest["domains"]["python_code"]["train"]["documents"]
    assert build_store(tmp_path/"s", small[1], tokenizer=tmp_path/"words", progress=False).hash == store.hash
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path/"endless")
    with pytest.raises(InputError, match="neither an end-of-text nor a separator"): build_store(tmp_path/"t", small[1], tokenizer=tmp_path/"endless", progress=False)

def flip(file):
    raw = bytearray(file.read_bytes()); raw[len(raw)//2] ^= 1; file.write_bytes(raw)

@pytest.mark.parametrize("damage, says", [
    (lambda s: flip(s/"python_docs.train.bin"), r"python_docs\.train\.bin: damaged"),
    (lambda s: os.truncate(s/"python_code.valid.bin", 100), r"python_code\.valid\.bin: damaged \(it has 100 bytes"),
    (lambda s: (s/"python_code.train.bin").unlink(), r"python_code\.train\.bin: missing"),
    (lambda s: flip(s/"tokenizer"/"tokenizer.json"), "tokenizer: damaged"),
    (lambda s: shutil.rmtree(s/"tokenizer"), "tokenizer: missing"),
    (lambda s: os.truncate(s/"manifest.json", 700), r"manifest\.json: damaged"),
    (lambda s: (s/"manifest.json").write_text((s/"manifest.json").read_text().replace('"eot": 0', '"eot": 1')), r"manifest\.json: damaged"),
    (lambda s: (s/"manifest.json").write_bytes(b"\xff\xfe"), r"manifest\.json: damaged"),
    (lambda s: (s/"manifest.json").write_text("[]"), "foreign"),
    (lambda s: (s/"manifest.json").write_text((s/"manifest.json").read_text().replace("token store 1", "token store 0")), "foreign"),
    (lambda s: (s/"manifest.json").unlink(), "not a token store"),
])
def test_damaged_and_foreign_stores_are_named(small, tmp_path, damage, says):
    store, domains = small
    copy = shutil.copytree(store.path, tmp_path/"copy")
    assert open_store(copy).hash == store.hash
    damage(copy)
    for attempt in (lambda: open_store(copy), lambda: build_store(copy, domains, vocab_size=400, progress=False)):
        with pytest.raises(InputError, match=says) as e: attempt()
        assert str(copy) in str(e.value) and "\n" not in str(e.value)
        if "damaged" in says: assert f"delete the folder {copy} and" in str(e.value)

def test_without_verify_only_sizes_are_checked(small, tmp_path):
    copy = shutil.copytree(small[0].path, tmp_path/"copy")
    flip(copy/"python_docs.train.bin"); open_store(copy, verify=False)
    os.truncate(copy/"python_docs.train.bin", 10)
    with pytest.raises(InputError, match="damaged"): open_store(copy, verify=False)

def test_a_manifest_alone_knows_all_but_the_text(small, tmp_path):
    store, _ = small
    path = Path(shutil.copy(store.path/"manifest.json", tmp_path/"store.json"))
    alone = open_store(path)
    assert (alone.hash, alone.domains, alone.vocab_size, alone.eot, alone.available()) == (store.hash, store.domains, store.vocab_size, store.eot, store.available())
    assert [alone.bytes_per_token(d, s) for d in alone.domains for s in ("train", "valid")] == [store.bytes_per_token(d, s) for d in store.domains for s in ("train", "valid")]
    for what, missing in (("python_docs.valid.bin", lambda: alone.tokens("python_docs", "valid")), ("tokenizer", alone.tokenizer)):
        with pytest.raises(InputError, match=f"{path}: a manifest without its store, so {what} is not here; build the store again") as e: missing()
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="python_docs, python_code"): alone.tokens("books")
    good = path.read_text()
    for damaged, says in ((good.replace('"eot": 0', '"eot": 1'), "damaged .*checksum.*delete the file"), (good[:700], "not the manifest of a token store, or a damaged one"), ("[]", "foreign .*another file"), (good.replace("token store 1", "token store 0"), "foreign")):
        path.write_text(damaged)
        with pytest.raises(InputError, match=f"{path}: {says}"): open_store(path)

@pytest.mark.parametrize("moment", ["while reading", "before the manifest", "before the rename"])
def test_a_killed_build_leaves_nothing_that_opens(tmp_path, words, moment):
    write_jsonl(tmp_path/"a.jsonl", words)
    script = textwrap.dedent(f"""
        import os, signal
        from autoscale import corpus
        die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        class Fatal(corpus.LocalSource):
            def documents(self):
                for i, d in enumerate(super().documents()):
                    if i == 150 and {moment!r} == "while reading": die()
                    yield d
        if {moment!r} == "before the manifest": corpus.atomic_write = die
        if {moment!r} == "before the rename": os.rename = die
        corpus.build_store("s", {{"d": [Fatal("a.jsonl")]}}, vocab_size=300)
    """)
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    left = list(tmp_path.glob(".s.building-*"))
    assert left and not (tmp_path/"s").exists()
    with pytest.raises(InputError, match="not a token store"): open_store(tmp_path/"s")
    if moment != "before the rename":
        with pytest.raises(InputError, match="not a token store"): open_store(left[0])
    store = build_store(tmp_path/"s", {"d": [LocalSource(tmp_path/"a.jsonl")]}, vocab_size=300, progress=False)
    assert open_store(tmp_path/"s").hash == store.hash and not list(tmp_path.glob(".s.building-*"))



def test_importing_corpus_is_light():
    script = "import autoscale.corpus, sys; print([m for m in ('torch', 'datasets', 'transformers', 'tokenizers', 'pypi_simple') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"

def test_a_missing_extra_is_named_with_the_command_for_where_this_runs(tmp_path):
    root = Path(corpus.__file__).parents[1]
    shutil.copytree(root/"autoscale", tmp_path/"autoscale", ignore=shutil.ignore_patterns("__pycache__"))  # as installed: no pyproject.toml beside it
    script = "import sys; sys.modules['datasets'] = None\nfrom autoscale import corpus\ntry: list(corpus.LocalSource(corpus.__file__).documents())\nexcept corpus.InputError as e: print(e)"
    said = lambda cwd, path: subprocess.run([sys.executable, "-c", script], cwd=cwd, env={**os.environ, "PYTHONPATH": str(path)},
                                            capture_output=True, text=True, check=True).stdout
    assert "run: pip install -e '.[train]'" in said(root, root)
    assert f"run: pip install -e '{root}[train]'" in said(tmp_path/"autoscale", root)
    assert "run: pip install 'autoscale-mix[train]'" in said(tmp_path/"autoscale", tmp_path)

def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path)); assert corpus.cache_folder() == tmp_path
    monkeypatch.delenv("AUTOSCALE_CACHE"); monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path)); assert corpus.cache_folder() == tmp_path/"autoscale"
    monkeypatch.delenv("XDG_CACHE_HOME"); assert corpus.cache_folder() == Path.home()/".cache"/"autoscale"
