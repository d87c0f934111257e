"""Many machines: a real Ray cluster of three nodes on this one, whose workers and nodes are killed, and job arrays for Slurm."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunStore
from autoscale.sweep import ddo_design, jobs_from_design, read_settings, sweep

ray = pytest.importorskip("ray")
from autoscale.cluster import RayCluster, slurm_script


@pytest.fixture(scope="module")
def nodes():
    "A head without cores, and two nodes of one core."
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80_000_000})
    cluster.workers = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def jobs(store, spec):
    "Seven runs of a second or two on one core."
    base = replace(spec, mixture=Mixture.uniform(store.domains, 3 * 384 * 64, multiple=64), evaluation={"sequences": 16, "every": 0})
    return [(name, replace(base, mixture=mixture)) for name, mixture in ddo_design(base.mixture, multiple=64)]


def written(runs: RunStore) -> dict[str, int]: return {p.name: p.stat().st_mtime_ns for p in runs.folder.glob("*.json")}


def training() -> list[int]:
    "Processes of Ray's that are at a task of ours."
    found = []
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if p.read_bytes().startswith(b"ray::_task"): found.append(int(p.parent.name))
        except OSError: pass
    return found


def parent(pid: int) -> int:
    try: return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError: return 0


def until(condition, what: str, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"no {what} in {seconds} s"
        time.sleep(.05)
    return found


def test_a_worker_and_a_node_are_killed_and_nothing_is_lost_or_made_twice(nodes, jobs, store, tmp_path):
    runs, seen, records, keep = RunStore(tmp_path / "runs"), {}, [], tmp_path / "weights"
    made = sweep(jobs[:2], store, RunStore(runs.folder), workers=2)  # begun here, continued on the cluster
    before = written(runs)
    sweeping = threading.Thread(target=lambda: records.extend(sweep(jobs, store, runs, checkpoint_seconds=.2, keep=keep, patience=60, cluster=RayCluster(nodes.address))))
    sweeping.start()
    def halfway(): return list((runs.folder / "checkpoints").glob("*.safetensors")) and training()
    os.kill(until(halfway, "run under way")[0], signal.SIGKILL)
    until(lambda: len(written(runs)) > len(before), "record after a worker's death")
    def at_work(): return halfway() and next((node for node in nodes.workers for p in training() if parent(p) == node.all_processes["raylet"][0].process.pid), None)
    node = until(at_work, "run under way on a node")
    seen = written(runs)
    nodes.workers.remove(node); nodes.remove_node(node, allow_graceful=False)
    sweeping.join(300)
    assert not sweeping.is_alive() and [r.name for r in records] == [name for name, _ in jobs] and {r.status for r in records} == {"finished"}
    assert records[:2] == made and {name: at for name, at in written(runs).items() if name in seen} == seen, "a finished run was written again"
    assert not list((runs.folder / "checkpoints").glob("*.lock"))
    assert {p.stem for p in keep.glob("*.safetensors")} == {spec.hash for _, spec in jobs[2:]}  # the two that were trained before were not asked for theirs
    after = written(runs)
    assert sweep(jobs, store, runs, workers=2) == records and written(runs) == after  # and continued here: nothing is left to train
    alone = sweep(jobs, store, RunStore(tmp_path / "here"), workers=2)  # a thread for each, as on the nodes
    assert [r.losses for r in alone] == [r.losses for r in records], "other losses on the cluster, or after a kill"


DRIVER = """
import json, sys
from pathlib import Path
from autoscale.cluster import RayCluster
from autoscale.corpus import open_store
from autoscale.runs import RunSpec, RunStore
from autoscale.sweep import sweep
store, runs, jobs, address = sys.argv[1:]
sweep([(name, RunSpec.from_dict(spec)) for name, spec in json.loads(Path(jobs).read_text())], open_store(store), RunStore(runs), cluster=RayCluster(address))
"""


def test_a_killed_driver_leaves_what_is_finished(nodes, jobs, store, tmp_path):
    runs = RunStore(tmp_path / "runs")
    (tmp_path / "jobs.json").write_text(json.dumps([[name, spec.to_dict()] for name, spec in jobs[:4]])); (tmp_path / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, tmp_path / "driver.py", store.path, runs.folder, tmp_path / "jobs.json", nodes.address], stderr=subprocess.DEVNULL)
    until(lambda: written(runs), "first record")
    driver.kill(); driver.wait()
    until(lambda: not training(), "end of its tasks")
    seen = written(runs)
    assert 1 <= len(seen) < 4
    records = sweep(jobs[:4], store, runs, workers=2)
    assert len(records) == 4 and {name: written(runs)[name] for name in seen} == seen


def test_a_task_that_hangs_ends_the_sweep_by_name(nodes, jobs, store, tmp_path):
    runs, said = RunStore(tmp_path / "runs"), []
    def run():
        try: sweep(jobs[:1], store, runs, checkpoint_seconds=.2, patience=10, cluster=RayCluster(nodes.address))
        except InputError as e: said.append(str(e))
    sweeping = threading.Thread(target=run); sweeping.start()
    until(lambda: list((runs.folder / "checkpoints").glob("*.safetensors")), "checkpoint")
    stopped = training()
    for pid in stopped: os.kill(pid, signal.SIGSTOP)
    try: sweeping.join(90)
    finally:
        for pid in stopped:
            try: os.kill(pid, signal.SIGKILL)
            except ProcessLookupError: pass
    assert stopped and not sweeping.is_alive() and said == ["run 'base': no progress for 10 s; ended. Run the sweep again, with more patience if this is how slow it is"]
    record, = sweep(jobs[:1], store, runs)
    assert record.status == "finished"


def test_what_a_cluster_cannot_do_is_said(nodes, jobs, store, tmp_path):
    with pytest.raises(InputError, match=r"no node of the cluster at .* has 64 cores and 2 GPUs"): sweep(jobs, store, RunStore(tmp_path / "runs"), cluster=RayCluster(nodes.address, cpus=64, gpus=2))
    wild = replace(jobs[0][1], optimiser={**jobs[0][1].optimiser, "learning_rate": 30., "warmup": 0.})
    record, = sweep([("wild", wild)], store, RunStore(tmp_path / "runs"), cluster=RayCluster(nodes.address))
    assert record.status == "failed" and "lower the learning rate" in record.reason
    with pytest.raises(InputError, match="nowhere"): sweep(jobs[:1], replace(store, path=tmp_path / "nowhere"), RunStore(tmp_path / "runs"), cluster=RayCluster(nodes.address))


def autoscale(*arguments, **options): return subprocess.run([sys.executable, "-c", "from autoscale.cli import main; main()", *map(str, arguments)], capture_output=True, text=True, **options)


SETTINGS = """
model: {model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2}
context: 64
batch: 16
evaluation_sequences: 8
"""


def test_a_cluster_that_does_not_answer(store, tmp_path):
    (tmp_path / "settings.yml").write_text(SETTINGS)
    assert autoscale("design", tmp_path / "d.csv", "--domains", ",".join(store.domains), "--tokens", "12288", "--multiple", "64").returncode == 0
    told = autoscale("sweep", tmp_path / "d.csv", "--store", store.path, "--runs", tmp_path / "runs", "--out", tmp_path / "o.csv", "--settings", tmp_path / "settings.yml", "--ray", "127.0.0.1:9")
    assert told.returncode == 1 and "no Ray cluster answers at 127.0.0.1:9" in told.stderr and "Traceback" not in told.stderr and not (tmp_path / "o.csv").exists()


def test_an_array_of_slurm_trains_a_design(store, tmp_path):
    "The script is run by bash as Slurm's nodes run it: with the number of its entry in the environment. Slurm itself is not here."
    (tmp_path / "settings.yml").write_text(SETTINGS)
    done = autoscale("design", tmp_path / "it's a design.csv", "--domains", ",".join(store.domains[:2]), "--tokens", "12288", "--multiple", "64", "--configs", tmp_path / "configs", "--slurm", tmp_path / "all.sh")
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "all.sh").read_text()
    assert "#SBATCH --array=1-5" in script and len(list((tmp_path / "configs").glob("*.json"))) == 5
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "STORE": str(store.path), "RUNS": str(tmp_path / "runs"), "SETTINGS": str(tmp_path / "settings.yml")}
    for entry in (2, 5, 2):
        before = written(RunStore(tmp_path / "runs"))
        ran = subprocess.run(["bash", tmp_path / "all.sh"], capture_output=True, text=True, env={**environment, "SLURM_ARRAY_TASK_ID": str(entry)}, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert len(written(RunStore(tmp_path / "runs"))) <= 2 and {name: written(RunStore(tmp_path / "runs"))[name] for name in before} == before and ("tokens/s" in ran.stderr) == (len(before) < 2)
    runs = RunStore(tmp_path / "runs")
    names = [json.loads(p.read_text())["run"] for p in sorted((tmp_path / "configs").glob("*.json"))]
    assert sorted(r.name for r in runs) == sorted([names[1], names[4]])
    seen = written(runs)
    whole = autoscale("sweep", tmp_path / "it's a design.csv", "--store", store.path, "--runs", runs.folder, "--settings", tmp_path / "settings.yml", "--out", tmp_path / "runs.csv")
    assert whole.returncode == 0 and len(written(runs)) == 5 and {name: written(runs)[name] for name in seen} == seen
    assert (tmp_path / "runs.csv").read_text().count("\n") == 6


def test_only_names_what_there_is(store, tmp_path):
    from autoscale.sweep import design_table
    (tmp_path / "settings.yml").write_text(SETTINGS)
    table, settings = design_table([Mixture.uniform(store.domains, 12288, multiple=64)], multiple=64), read_settings(tmp_path / "settings.yml")
    for only in (table.runs[2], "3"): assert [name for name, _ in jobs_from_design(table, store.hash, {**settings, "seeds": [0, 1]}, only)] == [table.runs[2]] * 2
    for only in ("0", "8", "-1", "bas", "", "²"):
        with pytest.raises(InputError, match=r"there is no run .* a number from 1 to 7"): jobs_from_design(table, store.hash, settings, only)
    told = autoscale("sweep", "d.csv", "--store", "s", "--runs", "r", "--settings", "s.yml")
    assert told.returncode == 1 and "give one of the two" in told.stderr
    with pytest.raises(InputError, match="cannot stand in a script"): slurm_script(Path("a\nb.csv"), 3)
