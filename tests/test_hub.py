"""Datasets of the hub, read through the real builders from files of their layout and columns; the hub itself is only asked where it cannot answer."""
import gzip
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.corpus import Source, build_store, describe, stdlib_sources
from autoscale.hub import HubSource, hub_presets, hub_sources, stream_plan
from autoscale.mixture import InputError
from autoscale.registry import domain_sources

COMMIT = "0" * 40


def prose(start: int, count: int) -> list[str]:
    "Different real texts of 600 to 3000 characters."
    whole = "\n".join(d.text for d in stdlib_sources()["python_docs"][0].documents())
    return [whole[(start + i) * 1500:][:600 + 300 * (i % 9)] for i in range(count)]


def parquet(path, rows: list[dict]):
    path.parent.mkdir(parents=True, exist_ok=True); pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    "All that the presets name, in the columns of the hub's pages."
    root = tmp_path_factory.mktemp("mirror")
    for k, subset in enumerate(("common_crawl", "c4", "github", "wikipedia", "arxiv", "stackexchange")):
        rows = [{"text": t, "meta": str({"title": f"{i}", "language": "en" if i % 2 else "de", "timestamp": "20230320"}), "red_pajama_subset": subset} for i, t in enumerate(prose(20 * k, 18))]
        for part in (0, 1): parquet(root/f"togethercomputer/RedPajama-Data-1T/{subset}/partial-train/000{part}.parquet", rows[9 * part:9 * part + 9])
    parquet(root/"emozilla/pg19/data/train-00000-of-00023-2b13c68dbeba63b5.parquet", [{"short_book_title": str(i), "publication_date": 1850 + i, "url": f"http://www.gutenberg.org/ebooks/{i}", "text": t} for i, t in enumerate(prose(130, 18))])
    parquet(root/"fancyzhx/amazon_polarity/amazon_polarity/train-00000-of-00004.parquet", [{"label": i % 2, "title": "t", "content": t} for i, t in enumerate(prose(150, 9))])
    parquet(root/"wikimedia/wikipedia/20231101.en/train-00000-of-00041.parquet", [{"id": str(i), "url": "u", "title": "t", "text": t} for i, t in enumerate(prose(160, 9))])
    parquet(root/"Skylion007/openwebtext/data/train-00000-of-00080.parquet", [{"text": t} for t in prose(170, 9)])
    parquet(root/"vblagoje/cc_news/plain_text/train-00000-of-00005.parquet", [{"title": "t", "text": t, "domain": "d", "date": "2017-01-01 00:00:00", "description": "", "url": "u", "image_url": ""} for t in prose(180, 9)])
    chunk = root/"MedRAG/pubmed/chunk/pubmed23n0001.jsonl"; chunk.parent.mkdir(parents=True)
    chunk.write_text("".join(json.dumps({"id": f"pubmed23n0001_{i}", "title": "t", "content": t, "contents": f"t. {t}", "PMID": i}) + "\n" for i, t in enumerate(prose(190, 9))))
    return root


@pytest.mark.parametrize("preset", list(hub_presets))
def test_every_source_of_a_preset_is_read_through_the_real_builders(preset, mirror):
    domains = hub_sources(preset, mirror)
    assert list(domains) == {"encoder-hub": ["reviews", "arxiv", "books", "wikipedia", "openwebtext", "news", "pubmed", "github"]}.get(preset, ["common_crawl", "c4", "github", "books", "wikipedia", "arxiv", "stackexchange"])
    for source in (s for of in domains.values() for s in of):
        found = list(source.documents())
        assert found == list(source.documents()) and found  # the same again
        assert len(source.revision) == 40 and source.licence != "unknown" and describe(source).keys() == {"name", "version", "licence", "sha256"}
        if preset != "encoder-hub": assert min(len(d.text) for d in found) >= 1000
        if preset == "redpajama-cut": assert {len(d.text) for d in found} == {1000}
    assert {d for d, (s,) in domains.items() if "in place of" in s.name} == ({"reviews", "books"} if preset == "encoder-hub" else {"books"})


def test_the_authors_rules(mirror):
    "English Wikipedia only; 1000 characters or more; the first block, but for github and arxiv a random one that does not depend on the order of reading."
    whole, cut = hub_sources("redpajama", mirror), hub_sources("redpajama-cut", mirror)
    texts = {d: [t for t in prose(20 * k, 18)] for k, d in enumerate(("common_crawl", "c4", "github", "wikipedia", "arxiv", "stackexchange"))}
    for domain, all_of in texts.items():
        wanted = [t for i, t in enumerate(all_of) if len(t) >= 1000 and (domain != "wikipedia" or i % 2)]
        assert [d.text for d in whole[domain][0].documents()] == wanted and 0 < len(wanted) < 18
        blocks = [d.text for d in cut[domain][0].documents()]
        if domain in ("github", "arxiv"):
            assert all(b in t for b, t in zip(blocks, wanted)) and sum(t.startswith(b) for b, t in zip(blocks, wanted)) < len(wanted) / 2
            assert blocks != [d.text for d in replace(cut[domain][0], seed=1).documents()]
            assert blocks[-3:] == [d.text for d in replace(cut[domain][0], files=f"{domain}/partial-train/0001.parquet").documents()][-3:]
        else: assert blocks == [t[:1000] for t in wanted]


@settings(deadline=None, derandomize=True)
@given(st.text(min_size=1, max_size=60), st.integers(1, 40), st.integers(0, 9))
def test_a_block_is_a_piece_of_its_document(text, block, seed):
    for random in (False, True):
        cut = HubSource("a/b", "*.parquet", COMMIT, block=block, random_block=random, seed=seed)._cut(text)
        assert cut == "" if len(text) < block else len(cut) == block and cut in text


def test_a_domain_stops_at_its_limit_without_reading_on(mirror, tmp_path):
    source, = hub_sources("redpajama", mirror)["c4"]
    texts = [d.text for d in source.documents()]
    for n in (1, 4):
        limit = sum(len(t.encode()) for t in texts[:n])
        assert [d.text for d in replace(source, limit_bytes=limit).documents()] == texts[:n]
        assert len(list(replace(source, limit_bytes=limit + 1).documents())) == n + 1
    broken = tmp_path/"a/b"; parquet(broken/"0.parquet", [{"text": texts[0]}]); (broken/"1.parquet").write_bytes(b"PAR1, not really")
    behind = HubSource("a/b", "*.parquet", COMMIT, mirror=str(tmp_path))
    assert [d.text for d in replace(behind, limit_bytes=1).documents()] == texts[:1]
    with pytest.raises(InputError, match=r"broke off after 1 documents.*again"): list(behind.documents())


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_with_a_nested_meta_and_compressed(name, tmp_path):
    "The form of SlimPajama, which names the subset of each row; zstd needs the package zstandard, and the error says so."
    texts = prose(0, 6); (tmp_path/"c/d").mkdir(parents=True)
    raw = "".join(json.dumps({"text": t, "meta": {"redpajama_set_name": "RedPajamaArXiv" if i % 2 else "RedPajamaC4"}}) + "\n" for i, t in enumerate(texts)).encode()
    pack = {"jsonl": bytes, "gz": gzip.compress, "zst": lambda b: pa.compress(b, codec="zstd", asbytes=True)}[name.rpartition(".")[2]]
    (tmp_path/"c/d"/name).write_bytes(pack(raw))
    source = HubSource("c/d", "*.jsonl*", COMMIT, keep=("meta", "RedPajamaArXiv"), mirror=str(tmp_path))
    if name.endswith("zst") and not importlib.util.find_spec("zstandard"):
        with pytest.raises(InputError, match="zstandard"): list(source.documents())
    else: assert [d.text for d in source.documents()] == texts[1::2]


def test_what_is_missing_is_named(mirror, tmp_path):
    c4, = hub_sources("redpajama", mirror)["c4"]
    for source, reason in ((replace(c4, text_field="body"), "body"), (replace(c4, keep=("language", "en")), "language"), (replace(c4, least=10 ** 6), "not one is a document"),
                           (replace(c4, keep=("meta", "'fr'")), "not one is a document"), (replace(c4, mirror=str(tmp_path)), "AUTOSCALE_HUB_MIRROR")):
        with pytest.raises(InputError, match=reason) as e: list(source.documents())
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="redpajama-cut"): hub_sources("pile")


def test_the_digest_is_of_the_commit_the_settings_and_a_mirror_s_files(mirror, tmp_path):
    source, = hub_sources()["arxiv"]
    others = [replace(source, **{k: v}) for k, v in {"revision": COMMIT, "files": "c4/*.parquet", "text_field": "t", "keep": ("meta", "x"), "least": 7, "block": 5000, "random_block": True, "seed": 1, "limit_bytes": 9}.items()]
    assert len({s.sha256 for s in [source, *others]}) == 10 and source.sha256 == replace(source, licence="another").sha256 == hub_sources()["arxiv"][0].sha256
    parquet(tmp_path/"a/b/0.parquet", [{"text": "one"}])
    local = HubSource("a/b", "*.parquet", COMMIT, mirror=str(tmp_path)); before = local.sha256
    assert before == replace(local).sha256 != replace(local, mirror=None).sha256
    parquet(tmp_path/"a/b/0.parquet", [{"text": "two"}])
    assert replace(local).sha256 != before


def ask(endpoint: dict[str, str]) -> tuple[str, float]:
    "The last line of a process that wants one document, and its seconds."
    started = time.monotonic()
    code = "from autoscale.hub import hub_sources; next(hub_sources('redpajama')['wikipedia'][0].documents())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "AUTOSCALE_HUB_MIRROR": "", "HF_HUB_OFFLINE": "0", **endpoint})
    assert done.returncode == 1
    return done.stderr.splitlines()[-1], time.monotonic() - started


class _Empty(http.server.BaseHTTPRequestHandler):
    "A hub that has no dataset of this name."
    def do_GET(self): self.send_response(404); self.send_header("X-Error-Code", "RepoNotFound"); self.end_headers()
    def log_message(self, *a): pass


def test_without_a_hub_the_error_comes_at_once_and_has_the_ways_out():
    for setting in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        said, seconds = ask(setting)
        assert "InputError: togethercomputer/RedPajama-Data-1T: the hub cannot be reached" in said and seconds < 30  # of them most for imports; without the first request it would be minutes
        assert "HF_HUB_OFFLINE" in said and "HF_ENDPOINT" in said and "AUTOSCALE_HUB_MIRROR" in said and "wikipedia/partial-train" in said
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: said, _ = ask({"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"})
    finally: server.shutdown(); server.server_close()
    assert "InputError: the hub has no dataset togethercomputer/RedPajama-Data-1T at commit 07421ec5" in said and "AUTOSCALE_HUB_MIRROR" in said


def test_a_store_is_built_by_name_from_a_mirror(mirror, tmp_path, monkeypatch):
    "As stage 1 does it: the preset's name, a share to hold out, and the plan before it."
    monkeypatch.setenv("AUTOSCALE_HUB_MIRROR", str(mirror))
    domains = domain_sources("redpajama")
    assert all(isinstance(s, HubSource) and s.mirror == str(mirror) for of in domains.values() for s in of)
    store = build_store(tmp_path/"store", domains, vocab_size=300, validation_fraction=.2, progress=False)
    assert store.domains == ("common_crawl", "c4", "github", "books", "wikipedia", "arxiv", "stackexchange") and min(store.available().values()) > 1000
    assert store.manifest["domains"]["books"]["sources"][0]["name"].startswith("emozilla/pg19 ") and store.manifest["domains"]["c4"]["sources"][0]["version"].startswith("07421ec5")
    assert build_store(tmp_path/"store", domain_sources("redpajama"), vocab_size=300, validation_fraction=.2, progress=False).hash == store.hash
    with pytest.raises(InputError, match="another domains"): build_store(tmp_path/"store", domain_sources("redpajama-cut"), vocab_size=300, validation_fraction=.2, progress=False)


def test_the_plan_counts_what_is_streamed_and_says_nothing_of_the_rest(mirror):
    assert stream_plan(stdlib_sources()) == []
    plan = stream_plan(hub_sources(), cores=10)
    assert "35 GB of text from the hub" in plan[0] and "17 GB" in plan[1] and "0.5 hours to read" in plan[2] and "0.5 hours to tokenize on 10 cores" in plan[2]
    source: Source = replace(hub_sources()["c4"][0], limit_bytes=8_000, mirror=str(mirror))
    assert "0.008 MB of text from a mirror (web 0.008 MB)" in stream_plan({"web": [source], "own": stdlib_sources()["python_docs"]})[0]
    assert "(web 0.041 MB)" in stream_plan({"web": [replace(source, limit_bytes=10 ** 9)]})[0]  # a mirror's files say how much there is
    with pytest.raises(InputError, match="AUTOSCALE_HUB_MIRROR"): stream_plan({"web": [replace(source, mirror="/nowhere")]})
