"""Shared by the tests: one small token store of real text that every Python carries, and what lets `make test` run two of them at a time."""
import importlib
import os
import pkgutil

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy and torch are loaded: two teams of threads that share the cores wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import autoscale
from autoscale.corpus import build_store, stdlib_sources
from autoscale.mixture import Mixture
from autoscale.runs import RunSpec
from autoscale.trainer import OPTIMISER

# Hypothesis draws from the constants of every module that is loaded: with all of them, its examples do not depend on which tests ran before.
for module in pkgutil.iter_modules(autoscale.__path__, "autoscale."): importlib.import_module(module.name)


LONGEST = ["test_reproduce", "test_project", "test_smoke", "test_sweep", "test_bench", "test_trainer", "test_encoder", "test_faults", "test_cluster", "test_cli", "test_docs", "test_hostile", "test_soak_sizes", "test_stream"]


def pytest_collection_modifyitems(items):
    "Files are dealt to whichever process is free, in this order: the longest first, so that none is left alone at the end."
    if "PYTEST_XDIST_WORKER" in os.environ: items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    "One for all processes: `build_store` opens what stands there already, also where another process was faster."
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ: folder = folder.parent
    return build_store(folder / "store", stdlib_sources(), vocab_size=512, progress=False)


@pytest.fixture(scope="session")
def spec(store):
    "A run of 36,864 tokens: about a second on one core."
    model = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.0}
    return RunSpec(Mixture.uniform(store.domains, 576 * 64, multiple=64), store.hash, model, {**OPTIMISER, "average_last": 0.25},
                   context=64, batch=16, evaluation={"sequences": 16, "every": 12})
