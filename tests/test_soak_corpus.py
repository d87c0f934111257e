"""A gigabyte through the way that RedPajama takes: minutes, and 4 GB of disk. Marked `soak`, so that neither `make test` nor a bare `pytest` runs it:

    .venv/bin/python -m pytest -m soak -s tests/test_soak_corpus.py
"""
import json
import os
import signal
import sys
import textwrap
import time

import psutil
import pytest
from standin import source, wanted, write

from autoscale.corpus import open_store, train_tokenizer
from autoscale.hub import stream_plan
from autoscale.model import held_out

MB = {"common_crawl": 300, "c4": 250, "github": 150, "arxiv": 120, "wikipedia": 110, "stackexchange": 70}  # of text before the filters
FORMS = {"c4": "jsonl", "stackexchange": "jsonl"}
PEAK = 1000  # MB, of the building process and its two workers together: their resident sets added up, so that what they share counts thrice

BUILD = textwrap.dedent("""
    import json, sys
    from autoscale.corpus import build_store
    from autoscale.hub import HubSource
    if __name__ == "__main__":
        kept = json.loads(sys.argv[1])
        domains = {d: [HubSource(**{**s, "keep": s["keep"] and tuple(s["keep"])})] for d, s in kept.items()}
        build_store(sys.argv[2], domains, sys.argv[3], validation_fraction=0.02, validation_tokens=10_240_000, workers=2, progress=False)
""")


def watched(folder, *arguments, until=lambda: False) -> tuple[int, float, float, int]:
    "Build in a process of its own; kill it when `until` says so. Exit status, seconds, peak MB of it and its workers, peak bytes on disk beside the sources."
    (folder / "build.py").write_text(BUILD)
    process, began, peak, disk = psutil.Popen([sys.executable, folder / "build.py", *map(str, arguments)], start_new_session=True), time.monotonic(), 0, 0
    while process.poll() is None:
        peak = max(peak, sum(_rss(p) for p in [process, *_children(process)]))
        disk = max(disk, sum(_size(f) for kept in (folder / "out").iterdir() for f in kept.rglob("*")))
        if until(): os.kill(process.pid, signal.SIGKILL)
        time.sleep(.2)
    return process.returncode, time.monotonic() - began, peak / 1e6, disk


def _children(process):
    try: return process.children(recursive=True)
    except psutil.NoSuchProcess: return []


def _rss(process) -> int:
    try: return process.memory_info().rss
    except psutil.NoSuchProcess: return 0


def _size(file) -> int:
    try: return file.stat().st_size
    except FileNotFoundError: return 0


@pytest.mark.soak
def test_a_gigabyte_in_bounded_memory_killed_twice(tmp_path):
    root, out = tmp_path / "mirror", tmp_path / "out" / "store"; out.parent.mkdir()
    began = time.monotonic(); rows = {d: write(root, d, mb * 10 ** 6, form=FORMS.get(d, "parquet")) for d, mb in MB.items()}
    print(f"\nwritten: {sum(rows.values()):,} documents, {sum(MB.values()):,} MB of text, {sum(f.stat().st_size for f in root.rglob('*') if f.is_file()) / 1e6:,.0f} MB of files, {time.monotonic() - began:.0f} s")
    train_tokenizer(wanted("c4", 1_500_000) + wanted("arxiv", 1_500_000), 8192).save_pretrained(tmp_path / "tokenizer")
    domains = {d: source(root, d, FORMS.get(d, "parquet")) for d in MB}
    for line in stream_plan({d: [s] for d, s in domains.items()}, store=out, tokenizer=tmp_path / "tokenizer"): print(line)
    kept = json.dumps({d: {k: v for k, v in vars(s).items() if not k.startswith("_")} for d, s in domains.items()})

    building = lambda pattern, size: any(_size(f) > size for f in out.parent.glob(f".store.building-*/{pattern}"))
    parts = [watched(tmp_path, kept, out, tmp_path / "tokenizer", until=lambda: building("scratch/c4.text", 100e6)),  # while the second domain is read
             watched(tmp_path, kept, out, tmp_path / "tokenizer", until=lambda: building("github.train.bin", 20e6)),  # while the third is encoded
             watched(tmp_path, kept, out, tmp_path / "tokenizer")]
    assert [p[0] for p in parts] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    store = open_store(out); entries = store.manifest["domains"]
    text, tokens, documents = (sum(e[s][k] for e in entries.values() for s in e if s in ("train", "valid")) for k in ("bytes", "tokens", "documents"))
    seconds, peak, disk = sum(p[1] for p in parts), max(p[2] for p in parts), max(p[3] for p in parts)
    print(*(f"part: {s:.0f} s, peak {p:.0f} MB, disk {d / 1e6:,.0f} MB" for _, s, p, d in parts), sep="\n")
    print(f"store {store.hash[:16]}: {documents:,} documents, {text / 1e6:,.0f} MB of text, {tokens:,} tokens in {seconds:.0f} s: {text / seconds / 1e6:.2f} MB/s, {tokens / seconds:,.0f} tokens/s; peak {peak:.0f} MB; disk {disk / 1e6:,.0f} MB while it was built, {2 * tokens / 1e6:,.0f} MB after")
    assert peak < PEAK
    assert disk < 2 * tokens + 1e6 * max(MB.values()) + 200 * documents
    for d in MB: assert held_out(store, d, 1024, 10_000).shape == (10_000, 1024)
    for d in ("wikipedia", "stackexchange"):  # every document that the filters leave, once
        assert sum(entries[d][s]["documents"] for s in ("train", "valid")) == len(set(wanted(d, MB[d] * 10 ** 6)))

    code, seconds, peak, _ = watched(tmp_path, json.dumps({"wikipedia": json.loads(kept)["wikipedia"]}), out.parent / "alone", tmp_path / "tokenizer")
    assert code == 0 and peak < PEAK
    assert {s: open_store(out.parent / "alone").manifest["domains"]["wikipedia"][s] for s in ("train", "valid")} == {s: entries["wikipedia"][s] for s in ("train", "valid")}
    print(f"wikipedia alone, not interrupted: {seconds:.0f} s, peak {peak:.0f} MB, the same tokens")
