"""Mixtures: exact totals, bounds that hold, a file that reads back."""
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.mixture import (InputError, Mixture, atomic_write, epoch_caps, limit_weights, load_available, load_mixture, mixture_from_dict,
                               mixture_to_dict, parse_tokens, round_to_total, save_mixture, weight_bounds)

examples = settings(deadline=None, derandomize=True, max_examples=200)
shares = st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=40)


@examples
@given(shares, st.integers(1, 10**14), st.sampled_from([1, 7, 128, 4096]))
def test_rounding_is_exact_and_within_one_unit(weights, units, multiple):
    total = units * multiple
    tokens = round_to_total(weights, total, multiple)
    assert sum(tokens) == total
    assert all(n % multiple == 0 and n >= 0 for n in tokens)
    quota = np.array(weights) / math.fsum(weights) * total
    assert np.all(np.abs(np.array(tokens) - quota) <= multiple * (1 + 1e-9) + quota * 1e-12)


@examples
@given(shares, st.integers(10**3, 10**12))
def test_json_round_trip(weights, total):
    w = np.array(weights) / math.fsum(weights)
    mixture = Mixture.from_weights([f"d{i}" for i in range(len(w))], w, total, method="test")
    text = json.dumps(mixture_to_dict(mixture))
    again = mixture_from_dict(json.loads(text))
    assert again == mixture and again.method == "test" and mixture.total == total
    assert abs(sum(json.loads(text)["weights"]) - 1) < 1e-12


@examples
@given(shares, st.data())
def test_limits_hold_and_free_domains_keep_their_ratio(weights, data):
    w = np.array(weights) / math.fsum(weights)
    m = len(w)
    floor = np.array(data.draw(st.lists(st.floats(0, 1 / m), min_size=m, max_size=m)))
    cap = np.array([data.draw(st.floats(1 / m, 1.0)) for _ in range(m)])
    v = limit_weights(w, floor, cap)
    assert abs(v.sum() - 1) < 1e-9
    assert np.all(v >= floor - 1e-12) and np.all(v <= cap + 1e-12)
    free = (v > floor + 1e-9) & (v < cap - 1e-9)
    if free.sum() > 1:
        ratio = v[free] / w[free]
        assert ratio.max() / ratio.min() < 1 + 1e-6
        # optimality in relative entropy: a domain held up has the larger ratio, one held down the smaller
        room = cap - floor > 2e-9  # without it a domain is at both bounds
        at_floor, at_cap = (v <= floor + 1e-9) & ~free, (v >= cap - 1e-9) & ~free
        assert np.all((v / w)[at_floor & room] >= ratio.min() * (1 - 1e-6))
        assert np.all((v / w)[at_cap & room] <= ratio.max() * (1 + 1e-6))


@pytest.mark.parametrize("weights, says", [([.5, .6], "sum to 1.1"), ([.5, float("nan")], "nan"), ([1.2, -.2], "-0.2"), ([float("inf"), 0], "inf")])
def test_bad_weights_are_refused(weights, says):
    with pytest.raises(InputError, match=says):
        Mixture.from_weights(["a", "b"], weights, 1000)


def test_infeasible_bounds_are_refused_with_the_numbers():
    with pytest.raises(InputError, match=r"floors sum to 1\.2"):
        weight_bounds(3, floor=.4)
    with pytest.raises(InputError, match=r"caps sum to 0\.9"):
        weight_bounds(3, cap=.3)
    with pytest.raises(InputError, match=r"domain 'b': floor 0\.5 and cap 0\.4"):
        weight_bounds(2, floor=[0, .5], cap=[1, .4], domains=["a", "b"])
    with pytest.raises(InputError, match="sequences of 0 tokens"):
        Mixture.uniform("ab", 100, multiple=0)
    with pytest.raises(InputError, match=r"allow 2\.5 epochs"):
        epoch_caps(["a", "b"], {"a": 20, "b": 20}, 100, max_epochs=2)


@pytest.mark.parametrize("text", ["", "ten", "-5", "0", "1.5", "nan", "1e", "1.23456M5"])
def test_sizes_that_are_no_token_counts(text):
    with pytest.raises(InputError):
        parse_tokens(text)


@pytest.mark.parametrize("value", ["-5", "0", '"many"', "1.5", "null", "[3]", "true"])
def test_a_bad_number_of_available_tokens_is_named_with_its_file_and_domain(tmp_path, value):
    (tmp_path / "available.json").write_text(f'{{"web": "2M", "code": {value}}}')
    with pytest.raises(InputError, match=r"available\.json: domain 'code': "):
        load_available(tmp_path / "available.json")


def test_writing_follows_a_link_and_keeps_what_is_no_file(tmp_path):
    (tmp_path / "there").mkdir()
    for name in ("old.json", "new.json"):  # the second link names a file that is not there yet
        (tmp_path / name).symlink_to(tmp_path / "there" / name)
    (tmp_path / "there/old.json").write_text("old")
    for name in ("old.json", "new.json"):
        with atomic_write(tmp_path / name) as f:
            f.write("text")
        assert (tmp_path / name).is_symlink() and (tmp_path / "there" / name).read_text() == "text"
    os.mkfifo(tmp_path / "pipe")  # stands for every device: no test may name /dev/null itself, which code without this mend replaces
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with atomic_write(tmp_path / "pipe") as f:
        f.write("through")
    assert os.read(reader, 99) == b"through" and (tmp_path / "pipe").is_fifo()
    os.close(reader)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["new.json", "new.json", "old.json", "old.json", "pipe", "there"]


def test_every_prefix_of_a_mixture_file_is_refused(tmp_path):
    save_mixture(tmp_path / "w.json", Mixture(("a", "b"), (30, 70), "x"))
    text = (tmp_path / "w.json").read_text().rstrip()
    for cut in range(len(text)):
        (tmp_path / "cut.json").write_text(text[:cut])
        with pytest.raises(InputError, match=r"cut\.json"):
            load_mixture(tmp_path / "cut.json")


def test_files_that_contradict_themselves():
    good = mixture_to_dict(Mixture(("a", "b"), (30, 70)))
    for change, says in [({"total_tokens": 99}, "sum to 100"), ({"weights": [.4, .6]}, "not the shares"), ({"tokens": [30.5, 69.5]}, "30.5"), ({"domains": ["a", "a"]}, "twice")]:
        with pytest.raises(InputError, match=says):
            mixture_from_dict({**good, **change})
