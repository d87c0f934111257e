"""The smoke profile in full; a file of its own, so that `make test` has something else to do beside it."""
from pathlib import Path

import numpy as np

from autoscale.reproduce import reproduce
from autoscale.runs import read_run_table, sample_run_table


def test_the_smoke_profile_on_real_text(tmp_path, monkeypatch):
    "The main job itself, in full. The packaged sample table came out of it: another machine may round otherwise, but must end close to it."
    monkeypatch.chdir(Path(__file__).parents[1])
    text = reproduce("smoke", into=tmp_path)
    table, sample = read_run_table(tmp_path / "figures/stage-2-runs.csv"), sample_run_table()
    assert table.domains == sample.domains == ("wikipedia", "c4", "github", "news", "speeches", "books")
    label = lambda t: [name.rpartition(" @ ")[0] for name in t.runs]
    assert label(table) == label(sample) and np.array_equal(table.tokens, sample.tokens)
    assert np.abs(table.losses.mean(1) - sample.losses.mean(1)).max() < 0.05, "mean held-out losses, nats per token"
    base, up = table.losses[0], {name.split(" x3")[0]: row for name, row in zip(table.runs[:13], table.losses[:13]) if " x3" in name}
    assert all(up[d][i] < base[i] for i, d in enumerate(table.domains)), "three times its tokens must lower a domain's own loss"
    assert "26 proxy runs, 5,283,840 tokens" in text and "2 target runs, 2,359,296 tokens" in text and "failed" not in text
