"""A stand-in for RedPajama: files of its layout and columns with seeded text, for tests that stream. Parquet as the hub writes it (`text`, `meta` as a string, `red_pajama_subset`), JSON lines as SlimPajama has them."""
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from autoscale.hub import HubSource

COMMIT = "1" * 40
SUBSETS = ("common_crawl", "c4", "github", "wikipedia", "arxiv", "stackexchange")
LENGTHS = {"common_crawl": 900, "c4": 350, "github": 700, "wikipedia": 400, "arxiv": 6000, "stackexchange": 300}  # words of a document, about


def words(count: int = 8000) -> list[str]:
    random = np.random.default_rng(0); letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    return ["".join(random.choice(letters, 2 + int(n), p=np.arange(26, 0, -1) / 351)) for n in random.poisson(3, count)]


def rows(subset: str, size: int, seed: int = 0) -> Iterator[dict[str, str]]:
    "Documents of a subset, until `size` bytes of text: some shorter than 1000 characters, some the same as an earlier one, every fourth in German by its `meta`."
    random, vocabulary, common = np.random.default_rng([seed, len(subset), ord(subset[1])]), words(), 1 / np.arange(1, 8001)
    common, n, text = np.cumsum(common / common.sum()), 0, ""
    while size > 0:
        if n % 50 != 7: text = " ".join([vocabulary[i] for i in np.searchsorted(common[:-1], random.random(max(20, int(random.exponential(LENGTHS[subset])))))]).replace(" the ", ".\n\nThe ")
        yield {"text": text, "meta": str({"title": f"{subset} {n}", "language": "de" if n % 4 == 3 else "en", "timestamp": "20230320"}), "red_pajama_subset": subset}
        size -= len(text); n += 1


def write(root: Path, subset: str, size: int, files: int = 3, group: int = 1000, form: str = "parquet") -> int:
    "Write a subset a row group at a time; returns the documents."
    folder = root / "togethercomputer/RedPajama-Data-1T" / subset / "partial-train"; folder.mkdir(parents=True)
    count, done, file, per = 0, 0, 0, size / files
    schema = pa.schema([(c, pa.string()) for c in ("text", "meta", "red_pajama_subset")])
    writer, pending, heavy = None, [], 0
    def flush():
        nonlocal writer, pending, heavy
        if not pending: return
        if form == "parquet":
            writer = writer or pq.ParquetWriter(folder / f"{file:04}.parquet", schema, compression="snappy", use_dictionary=False)
            writer.write_table(pa.Table.from_pylist(pending, schema))
        else:
            writer = writer or open(folder / f"{file:04}.jsonl", "w", encoding="utf-8")
            writer.writelines(json.dumps({"text": r["text"], "meta": {"redpajama_set_name": subset, "of": r["meta"]}}) + "\n" for r in pending)
        pending, heavy = [], 0
    for row in rows(subset, size):
        pending.append(row); count += 1; done += len(row["text"]); heavy += len(row["text"])
        if len(pending) == group or heavy > 32_000_000: flush()
        if done >= per * (file + 1) and file < files - 1:
            flush(); writer.close(); writer = None; file += 1
    flush(); writer.close()
    return count


def source(root: Path, subset: str, form: str = "parquet", **settings) -> HubSource:
    if subset == "wikipedia": settings["keep"] = ("meta", "'language': 'en'")
    return HubSource("togethercomputer/RedPajama-Data-1T", f"{subset}/partial-train/*.{form}", COMMIT, "none", mirror=str(root), **{"least": 1000, **settings})


def wanted(subset: str, size: int) -> list[str]:
    "What the paper's filters leave, in the order of the files and with repeated documents."
    return [r["text"] for r in rows(subset, size) if len(r["text"]) >= 1000 and (subset != "wikipedia" or "'language': 'en'" in r["meta"])]
