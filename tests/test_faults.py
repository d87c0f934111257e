"""Faults, injected for real: processes killed at random moments, full and read-only disks, flipped bits, clocks that jump, two sweeps at once, workers that hang or die, memory that runs out.

`make test` kills each kind of work once, `make soak` twenty times; the moments are drawn from a seed."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.corpus import open_store
from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunRecord, RunSpec, RunStore
from autoscale.sweep import ddo_design, sweep
from autoscale.trainer import load_checkpoint, train

ROOT = Path(__file__).resolve().parents[1]
COMMON = """
import json, sys
from pathlib import Path
from autoscale.corpus import build_store, open_store, stdlib_sources
from autoscale.runs import RunRecord, RunSpec, RunStore
folder, store = map(Path, sys.argv[1:])
jobs = [(name, RunSpec.from_dict(spec)) for name, spec in json.loads((folder.parent / "jobs.json").read_text())]
"""
WORK = {  # kind of work -> what a process does; asked again, it goes on
    "corpus": "build_store(folder / 'store', stdlib_sources(), vocab_size=512, progress=False)",
    "sweep": "from autoscale.sweep import sweep\nsweep(jobs, open_store(store), RunStore(folder / 'runs'), workers=2, checkpoint_seconds=.2)",
    "checkpoint": "from autoscale.trainer import train\nimport torch; torch.set_num_threads(1)\nruns = RunStore(folder / 'runs')\nif not runs.get(jobs[0][1]): train(jobs[0][1], open_store(store), checkpoint=folder / 'run.safetensors', checkpoint_seconds=0, put=runs.put)",
    "records": "runs, record = RunStore(folder / 'runs'), RunRecord.from_dict(json.loads((folder.parent / 'record.json').read_text()))\nfrom dataclasses import replace\n"
               "for seed in range(200):\n    spec = replace(record.spec, seed=seed)\n    if not runs.get(spec): runs.put(replace(record, spec=spec))",
    "reproduce": "import os; os.chdir(folder.parent / 'checkout')\nsys.argv = ['autoscale', 'reproduce', '--source', 'published', '--into', str(folder)]\nfrom autoscale.cli import main\nmain()",
}


@pytest.fixture(scope="module")
def plain(store, spec):
    model = {**spec.model, "resid_pdrop": 0, "embd_pdrop": 0}
    return replace(spec, model=model, mixture=Mixture.uniform(store.domains, 3 * 96 * 64, multiple=64), evaluation={"sequences": 8, "every": 0})


def laid_out(kind: str, tmp_path: Path, plain, store) -> list[tuple[str, RunSpec]]:
    "What the process of this kind reads."
    jobs = [(name, replace(plain, mixture=mixture)) for name, mixture in ddo_design(plain.mixture, multiple=64)][:4]
    if kind == "checkpoint": jobs = [("large", replace(plain, model={**plain.model, "n_embd": 256, "n_layer": 2}))]  # 20 MB: most of the time is writing
    (tmp_path / "jobs.json").write_text(json.dumps([[name, spec.to_dict()] for name, spec in jobs]))
    curve = [{"step": i, "tokens": 64 * i, "loss": 6 / (1 + i), "learning_rate": 1e-3} for i in range(1000)]
    (tmp_path / "record.json").write_text(json.dumps(RunRecord(plain, "x", "finished", losses=dict.fromkeys(store.domains, 5.), curve=curve).to_dict()))
    if kind == "reproduce":
        (tmp_path / "checkout").mkdir()
        for name in ("nbs", "figures", "settings.ini", "autoscale"): (tmp_path / "checkout" / name).symlink_to(ROOT / name)
    return jobs


def whole(kind: str, folder: Path) -> dict[str, int]:
    "What is finished in the folder, each file with the time of its writing; reading any of it must succeed."
    if kind == "corpus":
        if (folder / "store/manifest.json").exists(): open_store(folder / "store")
        return {}
    if kind == "checkpoint" and (folder / "run.safetensors").exists():
        from safetensors import safe_open
        with safe_open(folder / "run.safetensors", "pt") as f: assert set(f.metadata()) == {"spec", "progress", "sha256"}
    if kind == "reproduce":
        for p in folder.rglob("*.json"): json.loads(p.read_text())
        return {}
    list(RunStore(folder / "runs"))
    return {p.name: p.stat().st_mtime_ns for p in (folder / "runs").glob("*.json")}


def result(kind: str, folder: Path):
    "What the work came to, to the last bit."
    if kind == "corpus": return open_store(folder / "store").hash
    if kind == "reproduce": return {p.name: p.read_bytes() for p in (folder / "figures").rglob("*") if p.suffix in (".csv", ".json", ".md") and "index" not in p.name}
    return {r.spec.hash: (r.losses, r.loss_se, [c["loss"] for c in r.curve]) for r in RunStore(folder / "runs")}


def leftovers(folder: Path) -> list[str]:
    "Locks, checkpoints of runs that are recorded, and what a checkpoint that was being written left. Not the few kB of a record that was: nobody knows whether its writer lives."
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix == ".lock" or ".safetensors" in p.name or (".tmp" in p.name and ".json.tmp-" not in p.name)]


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", WORK)
def test_killed_at_a_random_moment_and_continued(kind, kills, plain, store, tmp_path):
    "SIGKILL to the process and everything it started. Afterwards what was finished is there, nothing is half, and going on ends in the same bits as work that nobody killed."
    laid_out(kind, tmp_path, plain, store)
    rng, log = random.Random(f"{kind} {kills}"), open(tmp_path / "log", "w")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    def begin(folder): return subprocess.Popen([sys.executable, "-c", COMMON + WORK[kind], folder, store.path], stdout=log, stderr=log, start_new_session=True, env=environment)
    def ends(process): assert process.wait(900) == 0, (tmp_path / "log").read_text()[-2000:]
    (tmp_path / "alone").mkdir(); start = time.monotonic()
    ends(begin(tmp_path / "alone"))
    takes, expected, at = time.monotonic() - start, result(kind, tmp_path / "alone"), []
    number, finished = 0, {}
    while len(at) < kills:
        folder = tmp_path / f"killed-{number}"; folder.mkdir(exist_ok=True)
        process = begin(folder)
        try: moment = rng.uniform(.2, 1) * takes; process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL); process.wait(); at.append(moment)
        else:  # it was done before: what it made is right, and the next one begins anew
            assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
            assert result(kind, folder) == expected
            shutil.rmtree(folder); number, finished = number + 1, {}
            continue
        now = whole(kind, folder)
        assert {name: now.get(name) for name in finished} == finished, "a finished record is gone, or was written again"
        finished = now
    folder.mkdir(exist_ok=True)
    ends(begin(folder))
    assert result(kind, folder) == expected
    now = whole(kind, folder)
    assert {name: now.get(name) for name in finished} == finished
    if kind in ("sweep", "checkpoint"): assert leftovers(folder) == []
    print(f"\n{kind}: {takes:.1f} s alone; killed {len(at)} times, after {min(at):.1f} to {max(at):.1f} s")


# ---- disks ----

def in_a_small_world(command: str, script: str, *arguments, **environment) -> subprocess.CompletedProcess:
    "A process in name spaces of its own, after this command has mounted something there."
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode: pytest.skip("this kernel lets nobody mount a small disk (unshare -rm)")
    return subprocess.run(["unshare", "-rm", "sh", "-c", f'{command}; exec "$@"', "sh", sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, **environment})


SWEEP = COMMON + """
from autoscale.mixture import InputError
from autoscale.sweep import sweep
import torch; torch.set_num_threads(1)
try: sweep(jobs, open_store(store), RunStore(folder / "runs"), checkpoint_seconds=0)
except InputError as e: print(e); print(*(p.name for p in (folder / "runs").rglob("*")), file=sys.stderr)
"""


def test_a_full_disk_is_named_and_nothing_half_is_left(plain, store, tmp_path):
    "A disk of 1.5 MB: the longer run comes first and its record fits, the larger model's checkpoint does not."
    laid_out("sweep", tmp_path, plain, store); (tmp_path / "disk").mkdir()
    jobs = [("small", replace(plain, mixture=Mixture.uniform(store.domains, 3 * 192 * 64, multiple=64))), ("large", replace(plain, seed=1, model={**plain.model, "n_embd": 128}))]
    (tmp_path / "jobs.json").write_text(json.dumps([[name, spec.to_dict()] for name, spec in jobs]))
    done = in_a_small_world(f"mount -t tmpfs -o size=1500k none {tmp_path}/disk", SWEEP, tmp_path / "disk", store.path)
    said = done.stdout.strip()
    assert re.fullmatch(r"run 'large': .*safetensors: cannot be written \(.*[Nn]o space left.*\); make room, or choose another folder", said), (said, done.stderr)
    assert f"{jobs[0][1].hash}.json" in done.stderr and ".tmp" not in done.stderr


FILLED = """
import subprocess, sys
from pathlib import Path
disk, sizes, command = Path(sys.argv[1]), sys.argv[2].split(), [sys.executable, "-c", "from autoscale.cli import main; main()", *sys.argv[3:]]
for size in sizes:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.returncode, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "", sep="|")
    assert "Traceback" not in done.stderr, done.stderr
"""


def test_a_corpus_on_a_disk_that_is_full_again_and_again_ends_in_the_same_store(store, tmp_path):
    "Full at the table of documents, the tokenizer, the text, the tokens: each time one line, and the next one goes on."
    (tmp_path / "disk").mkdir(); (tmp_path / "disk/kept").write_text("")
    done = in_a_small_world(f"mount -t tmpfs -o size=50k none {tmp_path}/disk", FILLED + "from autoscale.corpus import open_store; print(open_store(disk / 'store').hash)\n",
                            tmp_path / "disk", "100k 1m 3m 6m 100m", "corpus", "build", tmp_path / "disk/store", "--domains", "stdlib", "--vocab-size", "512", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    *said, built = done.stdout.splitlines()
    full = [line for line in said if line.startswith("1|")]
    assert len(full) >= 3 and all(re.search(r"cannot be written \(.*\); make room and run the same again: it goes on where it was$|No space left on device; make room, or choose another place$", line) for line in full), said
    assert said[-1].startswith("0|") and built == store.hash


def test_a_reproduction_on_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "disk").mkdir()
    done = in_a_small_world(f"mount -t tmpfs -o size=100k none {tmp_path}/disk", FILLED, tmp_path / "disk", "200k 1500k", "reproduce", "--source", "published", "--into", tmp_path / "disk", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(re.fullmatch(r"1\|.*No space left on device.*; make room, or choose another .*", line) for line in done.stdout.splitlines()), done.stdout


def test_a_limit_on_file_sizes_is_a_full_disk_too(plain, store, tmp_path):
    "For machines where nothing can be mounted: the kernel refuses to write past a limit."
    laid_out("checkpoint", tmp_path, plain, store); (tmp_path / "small").mkdir()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
    done = subprocess.run([sys.executable, "-c", limit + SWEEP, tmp_path / "small", store.path], capture_output=True, text=True)
    assert done.stdout.startswith("run 'large': ") and "cannot be written" in done.stdout and ".tmp" not in done.stderr, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_record_that_finds_no_room_costs_nothing_that_is_there(plain, store, tmp_path):
    laid_out("records", tmp_path, plain, store); (tmp_path / "disk").mkdir()
    script = COMMON + WORK["records"].replace("runs.put(replace(record, spec=spec))", "put(replace(record, spec=spec))").replace("for seed", """
def put(record):
    try: runs.put(record)
    except OSError as e:
        print(e.strerror, sum(1 for _ in runs), *(p.name for p in runs.folder.iterdir() if not p.name.endswith(".json"))); sys.exit(0)
for seed""", 1)
    done = in_a_small_world(f"mount -t tmpfs -o size=900k none {tmp_path}/disk", script, tmp_path / "disk", store.path)
    assert re.fullmatch(r"No space left on device [1-9]\d*", done.stdout.strip()), done.stdout + done.stderr


def test_a_read_only_folder_and_a_read_only_cache_are_one_line(plain, store, tmp_path):
    laid_out("sweep", tmp_path, plain, store); (tmp_path / "disk/runs").mkdir(parents=True)
    done = in_a_small_world(f"mount -t tmpfs -o ro none {tmp_path}/disk", SWEEP, tmp_path / "disk", store.path)
    assert "Read-only file system" in done.stdout and done.stdout.startswith("run") and len(done.stdout.splitlines()) == 1, done.stdout + done.stderr
    build = "import sys; sys.argv = ['autoscale', 'corpus', 'build', sys.argv[1], '--domains', 'seven-short']\nfrom autoscale.cli import main\nmain()"
    done = in_a_small_world(f"mount -t tmpfs -o ro none {tmp_path}/disk", build, tmp_path / "store", AUTOSCALE_CACHE=str(tmp_path / "disk"))
    assert done.returncode == 1 and str(tmp_path / "disk") in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "store").exists()


# ---- bits ----

@pytest.fixture(scope="module")
def interrupted(plain, store, tmp_path_factory):
    "A finished record, a checkpoint of another run, and the weights that the first one left."
    folder = tmp_path_factory.mktemp("interrupted")
    runs = RunStore(folder / "runs"); runs.put(train(plain, store, "done", keep=folder / "weights"))
    class Killed(Exception): pass
    def kill(at):
        if at["step"] >= 6: raise Killed
    with pytest.raises(Killed): train(replace(plain, seed=1), store, checkpoint=folder / "run.safetensors", checkpoint_seconds=0, report=kill)
    return folder


def flipped(data: bytes, rng) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]


@pytest.mark.parametrize("cut", [False, True], ids=["one bit flipped", "cut short"])
def test_every_damage_to_a_record_a_checkpoint_and_a_store_is_seen_and_named(interrupted, plain, store, tmp_path, cut):
    "At 60 places each. A flipped bit may leave valid JSON and valid tensors: what is read must then be what was written (a bit in white space), or refused."
    from autoscale.model import build_model
    import torch
    rng, other = random.Random(cut), replace(plain, seed=1)
    def damaged(data): return data[:rng.randrange(len(data))] if cut else flipped(data, rng)
    record, good = interrupted / "runs" / f"{plain.hash}.json", RunStore(interrupted / "runs").get(plain)
    (tmp_path / "runs").mkdir(); copy, same = tmp_path / "runs" / record.name, 0
    for _ in range(60):
        copy.write_bytes(damaged(record.read_bytes()))
        try: assert RunStore(tmp_path / "runs").get(plain) == good; same += 1
        except InputError as e: assert str(copy) in str(e) and "\n" not in str(e)
    assert same < 30
    model = build_model(other, store, torch.device("cpu")); optimiser = torch.optim.AdamW(model.parameters())
    for _ in range(60):
        (tmp_path / "run.safetensors").write_bytes(damaged((interrupted / "run.safetensors").read_bytes()))
        with pytest.raises(InputError, match=r"run\.safetensors: .*delete it and the run starts anew"): load_checkpoint(tmp_path / "run.safetensors", [other], model, optimiser)
    shutil.copytree(store.path, tmp_path / "store")
    files = [p for p in sorted((tmp_path / "store").rglob("*")) if p.is_file() and p.name != "manifest.json" and p.stat().st_size]
    for k in range(60):
        path = files[k % len(files)]; before = path.read_bytes()
        path.write_bytes(damaged(before))
        with pytest.raises(InputError, match=re.escape(str(path if path.parent.name != "tokenizer" else path.parent))): open_store(tmp_path / "store")
        path.write_bytes(before)
    open_store(tmp_path / "store")


# ---- clocks ----

def test_a_clock_that_jumps_changes_no_loss_and_no_time_taken(plain, store, tmp_path, monkeypatch):
    "Wall time goes back a year at every look. Training measures by the monotonic clock and decides nothing by either."
    expected, now = train(plain, store), time.time()
    monkeypatch.setattr(time, "time", lambda: (globals().__setitem__("JUMPS", JUMPS + 1), now - 31_536_000 * JUMPS)[1])
    record, = sweep([("x", plain)], store, RunStore(tmp_path / "runs"), checkpoint_seconds=0)
    assert record.losses == expected.losses and [c["loss"] for c in record.curve] == [c["loss"] for c in expected.curve]
    assert 0 < record.seconds < 600 and all(s >= 0 for s in record.parts.values()) and record.tokens_per_second > 0


JUMPS = 1


# ---- many at once, and workers that go wrong ----

TWICE = COMMON + """
from autoscale.sweep import sweep
from autoscale import trainer
train_together = trainer.train_together
def noted(jobs, *rest, **options):
    with open(folder / "trained", "a") as f: f.write("".join(spec.hash + "\\n" for _, spec in jobs))
    return train_together(jobs, *rest, **options)
trainer.train_together = noted
sweep(jobs, open_store(store), RunStore(folder / "runs"))
"""


@pytest.mark.parametrize("kind", ["a record", "a text file"])
def test_a_file_that_was_not_renamed_yet_is_not_there(kind, plain, store, tmp_path):
    "Killed between the last byte and the name: nothing new is there, and what was there is as it was."
    laid_out("records", tmp_path, plain, store); (tmp_path / "x").mkdir()
    old = RunRecord.from_dict(json.loads((tmp_path / "record.json").read_text())); runs = RunStore(tmp_path / "x/runs")
    for before in (False, True):
        if before: runs.put(old); (tmp_path / "x/text").write_text("as it was")
        script = COMMON + "import os, signal\nsys.addaudithook(lambda event, _: os.kill(os.getpid(), signal.SIGKILL) if event == 'os.rename' else None)\n" + (
            "runs, record = RunStore(folder / 'runs'), RunRecord.from_dict(json.loads((folder.parent / 'record.json').read_text()))\nfrom dataclasses import replace\nruns.put(replace(record, reason='new'))" if kind == "a record" else
            "from autoscale.mixture import atomic_write\nwith atomic_write(folder / 'text') as f: f.write('new')")
        assert subprocess.run([sys.executable, "-c", script, tmp_path / "x", store.path], capture_output=True).returncode == -signal.SIGKILL, "it was not renamed"
        assert runs.get(old.spec) == (old if before else None) and (tmp_path / "x/text").exists() == before and (not before or (tmp_path / "x/text").read_text() == "as it was")


def test_two_sweeps_into_one_folder_train_each_run_once(plain, store, tmp_path):
    jobs = laid_out("sweep", tmp_path, plain, store); (tmp_path / "both").mkdir()
    both = [subprocess.Popen([sys.executable, "-c", TWICE, tmp_path / "both", store.path], stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(2)]
    for process in both: assert process.wait(300) == 0, process.stderr.read()
    assert sorted((tmp_path / "both/trained").read_text().split()) == sorted(spec.hash for _, spec in jobs)
    assert len(list(RunStore(tmp_path / "both/runs"))) == len(jobs) and leftovers(tmp_path / "both") == []


SIDE = COMMON + """
from autoscale.mixture import InputError
from autoscale.sweep import sweep
try: sweep(jobs, open_store(store), RunStore(folder / "runs"), workers=2, checkpoint_seconds=.1, patience=float(folder.name))
except InputError as e: print(e)
"""


@pytest.mark.parametrize("what, patience, says", [(signal.SIGKILL, 300, r"a process was killed under runs? '.*' .*memory.*run the sweep again, .*"), (signal.SIGSTOP, 15, r"run '.*': no progress for 15 s; ended\. .*run the sweep again.*")],
                         ids=["killed, as the kernel does when memory runs out", "hung"])
def test_a_worker_that_is_killed_or_hangs_ends_the_sweep_by_name_and_loses_nothing(plain, store, tmp_path, what, patience, says):
    long = replace(plain, mixture=Mixture.uniform(store.domains, 3 * 960 * 64, multiple=64))
    laid_out("sweep", tmp_path, long, store); folder = tmp_path / str(patience); folder.mkdir()
    sweeping = subprocess.Popen([sys.executable, "-c", SIDE, folder, store.path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until(lambda: list((folder / "runs/checkpoints").glob("*.safetensors")), sweeping)
    children = [int(p.parent.name) for p in Path("/proc").glob("[0-9]*/stat") if (stat := read(p)) and stat.rpartition(")")[2].split()[1] == str(sweeping.pid) and "spawn_main" in read(p.with_name("cmdline"))]
    assert len(children) == 2
    os.kill(children[0], what)
    said, _ = sweeping.communicate(timeout=120)
    assert re.fullmatch(says, said.strip()), said
    assert not any(Path(f"/proc/{pid}").exists() for pid in children), "a process was left behind"
    again = subprocess.run([sys.executable, "-c", SIDE, folder, store.path], capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert again.stdout == "" and len(list(RunStore(folder / "runs"))) == 4 and leftovers(folder) == []


def test_reports_that_nobody_reads_hold_no_sweep_up(plain, store, tmp_path):
    "While the sweep's process stands still, its workers end with more to report than a pipe holds."
    laid_out("sweep", tmp_path, replace(plain, mixture=Mixture.uniform(store.domains, 3 * 960 * 64, multiple=64)), store); folder = tmp_path / "300"; folder.mkdir()
    (tmp_path / "jobs.json").write_text(json.dumps(json.loads((tmp_path / "jobs.json").read_text())[:2]))
    sweeping = subprocess.Popen([sys.executable, "-c", SIDE, folder, store.path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until(lambda: len(list((folder / "runs/checkpoints").glob("*.safetensors"))) == 2, sweeping)
    sweeping.send_signal(signal.SIGSTOP)
    until(lambda: len(list((folder / "runs").glob("*.json"))) == 2, sweeping)
    time.sleep(.5); sweeping.send_signal(signal.SIGCONT)
    try: said, _ = sweeping.communicate(timeout=60)
    finally: sweeping.kill()
    assert said == "" and sweeping.returncode == 0 and len(list(RunStore(folder / "runs"))) == 2 and leftovers(folder) == []


def until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition(): assert time.monotonic() < end and process.poll() is None; time.sleep(.01)


def read(path: Path) -> str:
    try: return path.read_text()
    except OSError: return ""


def test_no_memory_is_one_line_with_a_way_out(plain, store, tmp_path):
    "The address space of the process is limited, so that one huge batch does not fit into it."
    huge = replace(plain, batch=4096, mixture=Mixture.uniform(store.domains, 3 * 4096 * 64, multiple=64))
    (tmp_path / "jobs.json").write_text(json.dumps([["huge", huge.to_dict()]])); (tmp_path / "x").mkdir()
    script = SWEEP.replace("try: sweep", "import autoscale.trainer, transformers.models.gpt2.modeling_gpt2, resource\nused = int(Path('/proc/self/statm').read_text().split()[0]) * 4096\nresource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000,) * 2)\ntry: sweep")
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "x", store.path], capture_output=True, text=True)
    assert re.fullmatch(r"run 'huge': not enough memory \(.*\); set micro_batch .* lower, or stack, or workers", done.stdout.strip()), done.stdout + done.stderr[-1500:]
