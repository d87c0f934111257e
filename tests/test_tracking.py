"""Tracking: training is the same with it and without, every tracker gets every point once, and its export reads back as the run table."""
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoscale import tracking
from autoscale.imports import read_runs
from autoscale.mixture import InputError, Mixture
from autoscale.runs import RunRecord, RunStore, run_table
from autoscale.sweep import sweep
from autoscale.tracking import Tracker, points

RECORD_OF = dict(status="finished", losses={"a": 3., "b": 2.}, params=1000, epochs={"a": .5, "b": 2.},
                 curve=[{"step": s, "tokens": 512 * s, "loss": 6. - s, "learning_rate": .001} for s in (1, 2, 3)], evaluations=[{"step": s, "tokens": 512 * s, "losses": {"a": 6. - s, "b": 5. - s}} for s in (2, 3)])


@pytest.fixture
def jobs(spec):
    "Three runs of one shape without dropout, two of which have the same number of steps as the first; evaluated on the way."
    spec = replace(spec, model={**spec.model, "resid_pdrop": 0, "embd_pdrop": 0}, mixture=Mixture(spec.mixture.domains, (32 * 64, 32 * 64, 32 * 64)), evaluation={"sequences": 4, "every": 2})
    return [("base", spec), ("docs /3", replace(spec, mixture=Mixture(spec.mixture.domains, (16 * 64, 48 * 64, 32 * 64)))), ("longer", replace(spec, mixture=Mixture(spec.mixture.domains, (48 * 64, 48 * 64, 32 * 64))))]


def answers(records): return [(r.name, r.spec.hash, r.status, r.losses, r.loss_se, r.bits_per_byte, r.curve, r.evaluations, r.epochs) for r in records]


def scalars(folder: Path) -> dict[str, list[tuple[int, str]]]:
    "Every point in TensorBoard's files, as often as it is there, by run."
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    found = {}
    for file in sorted(folder.rglob("*.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for item in event.summary.value:
                if not item.tag.startswith("_"): found.setdefault(file.parent.name, []).append((event.step, item.tag))
    return found


def equals(table, expected, single=False):
    rows = [table.runs.index(r) for r in expected.runs]
    columns, judged = [table.domains.index(d) for d in expected.domains], [table.validation.index(v) for v in expected.validation]
    assert np.array_equal(table.tokens[rows][:, columns], expected.tokens)
    assert np.array_equal(table.losses[rows][:, judged], expected.losses.astype(np.float32).astype(float) if single else expected.losses)
    for name in ("params", "seed", "steps"): assert np.array_equal(getattr(table, name)[rows], getattr(expected, name))
    assert expected.unique is None if table.unique is None else np.array_equal(table.unique[rows][:, columns], expected.unique)


@pytest.mark.parametrize("options", [{}, {"stack": 2}, {"workers": 2}], ids=str)
def test_training_is_the_same_to_the_last_bit_and_the_table_comes_back(jobs, store, tmp_path, capfd, options):
    records = sweep(jobs, store, RunStore(tmp_path / "runs"), track="tensorboard", **options)
    assert "tracked with tensorboard in " in capfd.readouterr().err
    if "workers" not in options:  # there it is this process that tracks, and others that train
        assert answers(sweep(jobs, store, RunStore(tmp_path / "plain"), **options)) == answers(records)
        assert not (tmp_path / "plain/tracked").exists()
    place = tmp_path / "runs/tracked/tensorboard"
    equals(read_runs(place), run_table(records), single=True)
    logged = scalars(place)
    for r in records:
        expected = [(step, tag) for step, values in points(r.curve, r.evaluations) for tag in values]
        assert sorted(next(v for k, v in logged.items() if k.endswith(r.spec.hash[:8]))) == sorted(expected)
    sweep(jobs, store, RunStore(tmp_path / "runs"), track="tensorboard")
    assert scalars(place) == logged  # asked again: nothing twice


def test_runs_that_were_trained_before_are_logged_from_their_records(jobs, store, tmp_path):
    records = sweep(jobs[:1], store, RunStore(tmp_path))
    assert sweep(jobs[:1], store, RunStore(tmp_path), track="tensorboard") == records
    equals(read_runs(tmp_path / "tracked/tensorboard"), run_table(records), single=True)


class Killed(Exception): pass


def test_a_sweep_that_is_killed_and_continued_has_every_point_once(jobs, store, tmp_path, monkeypatch):
    "Killed between two checkpoints, after points were logged that will be trained again."
    whole = sweep(jobs[:1], store, RunStore(tmp_path / "whole"))
    follow, reports = Tracker.follow, []
    def killed(self, *arguments, **options):
        follow(self, *arguments, **options); reports.append(1)
        if len(reports) == 4: raise Killed
    monkeypatch.setattr(Tracker, "follow", killed)
    with pytest.raises(Exception, match="Killed"): sweep(jobs[:1], store, RunStore(tmp_path / "runs"), track="tensorboard", checkpoint_seconds=0)
    monkeypatch.setattr(Tracker, "follow", follow)
    assert len(list((tmp_path / "runs/checkpoints").glob("*.safetensors"))) == 1
    assert answers(sweep(jobs[:1], store, RunStore(tmp_path / "runs"), track="tensorboard")) == answers(whole)
    (found,) = scalars(tmp_path / "runs/tracked/tensorboard").values()
    assert sorted(found) == sorted((step, tag) for step, values in points(whole[0].curve, whole[0].evaluations) for tag in values)


@pytest.mark.parametrize("name, says", [("tensorbord", "is not known; choose aim, clearml, comet_ml, dvclive, mlflow, swanlab, tensorboard, trackio, wandb"), ("clearml", "its package is not installed (or is switched off); run: pip install clearml")])
def test_a_tracker_that_cannot_be_used_is_refused_before_anything_is_trained(jobs, store, tmp_path, name, says):
    with pytest.raises(InputError) as refused: sweep(jobs, store, RunStore(tmp_path), track=name)
    assert says in str(refused.value) and "\n" not in str(refused.value) and not list(tmp_path.iterdir())


def test_wandb_without_a_key_is_refused_instead_of_asking_for_it_later(jobs, store, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match="there is no API key; run `wandb login`, or set WANDB_MODE=offline"): sweep(jobs, store, RunStore(tmp_path / "runs"), track="wandb")
    assert not (tmp_path / "runs").exists()


def test_a_tracker_that_fails_says_so_and_training_goes_on(jobs, store, tmp_path, capfd):
    "A file where its folder should be; when that is out of the way, the same sweep logs what is missing."
    (tmp_path / "tracked").mkdir(); (tmp_path / "tracked/tensorboard").write_text("in the way")
    records = sweep(jobs[:1], store, RunStore(tmp_path), track="tensorboard")
    assert records[0].status == "finished" and "tracking with tensorboard has stopped (" in capfd.readouterr().err
    (tmp_path / "tracked/tensorboard").unlink()
    assert sweep(jobs[:1], store, RunStore(tmp_path), track="tensorboard") == records
    equals(read_runs(tmp_path / "tracked/tensorboard"), run_table(records), single=True)


def record(spec, k): return RunRecord(replace(spec, mixture=Mixture(("a", "b"), (1024, 512)), batch=8, seed=k), f"run /{k}", **RECORD_OF)


def test_wandb_without_a_network(spec, tmp_path, monkeypatch, capfd):
    "Two runs open at once, and one in two pieces: a single table, to the last digit, and nothing on the screen."
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker, records = Tracker("wandb", tmp_path), [record(spec, k) for k in range(2)]
    for n in (1, 2):
        for r in records: tracker.follow(r.name, r.spec, r.params, r.epochs, r.curve[:n], r.evaluations[:n - 1])
    tracker.finish(records[0]); tracker.open.popitem()[1].finish()  # the second is cut off here
    for r in records: Tracker("wandb", tmp_path).finish(r)
    wandb.teardown()  # until here its service may still be writing
    equals(read_runs(tmp_path / "wandb"), run_table(records))
    assert json.loads((tmp_path / "wandb.json").read_text()) == {r.spec.hash: [3, 3] for r in records} and capfd.readouterr() == ("", "")


def test_trackio(spec, tmp_path):
    "In a process of its own: Trackio decides once a process where it writes. Its package moves a pin of ours, so that it is not always there."
    pytest.importorskip("trackio")
    code = f"""
from tests.test_tracking import *
from autoscale.runs import RunSpec
spec = RunSpec.from_dict(json.loads({json.dumps(spec.to_dict())!r}))
records = [record(spec, k) for k in range(2)]; tracker = Tracker("trackio", Path({str(tmp_path)!r}))
for r in records: tracker.follow(r.name, r.spec, r.params, r.epochs, r.curve[:2], r.evaluations[:1])
for r in records: tracker.finish(r)
assert not tracker.failed, tracker.failed
equals(read_runs({str(tmp_path / "trackio")!r}), run_table(records))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")})
    assert done.returncode == 0, done.stderr


def test_points_come_in_order_and_once():
    assert [s for s, _ in points(RECORD_OF["curve"], RECORD_OF["evaluations"])] == [1, 2, 3]
    assert points(RECORD_OF["curve"], RECORD_OF["evaluations"], (3, 2)) == [(3, {"held-out/a": 3., "held-out/b": 2.})] and points(RECORD_OF["curve"], RECORD_OF["evaluations"], (3, 3)) == []


def test_a_damaged_note_of_what_was_logged_is_refused(tmp_path):
    (tmp_path / "tensorboard.json").write_text("{")
    with pytest.raises(InputError, match=r"tensorboard\.json: cannot be read; delete it"): Tracker("tensorboard", tmp_path)


def test_names_become_folders(tmp_path, spec):
    r = replace(record(spec, 1), name="../a/b: c /3")
    Tracker("tensorboard", tmp_path).finish(r)
    (place,) = (tmp_path / "tensorboard").iterdir()
    assert place.name == f".._a_b_ c _3 @ {r.spec.hash[:8]}" and tracking.run_label(r.name, r.spec) == read_runs(tmp_path / "tensorboard").runs[0]
