"""Shared by the tests: one small token store of real text that every Python carries."""
import pytest

from autoscale.corpus import build_store, stdlib_sources
from autoscale.mixture import Mixture
from autoscale.runs import RunSpec
from autoscale.trainer import OPTIMISER


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return build_store(tmp_path_factory.mktemp("store") / "store", stdlib_sources(), vocab_size=512, progress=False)


@pytest.fixture(scope="session")
def spec(store):
    "A run of 36,864 tokens: about a second on one core."
    model = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.0}
    return RunSpec(Mixture.uniform(store.domains, 576 * 64, multiple=64), store.hash, model, {**OPTIMISER, "average_last": 0.25},
                   context=64, batch=16, evaluation={"sequences": 16, "every": 12})
