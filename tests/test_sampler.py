"""The sampler's promises, each as a property: exact, nested, fresh first, even, sharded without overlap, resumable from two integers."""
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale.mixture import InputError, Mixture
from autoscale.sampler import Sampler, schedule

CONTEXT = 8
examples = settings(deadline=None, derandomize=True, max_examples=100)


@st.composite
def runs(draw):
    "Sequences drawn and available, per domain, and a seed; some domains repeat."
    m = draw(st.integers(1, 5))
    draws = draw(st.lists(st.integers(1, 60), min_size=m, max_size=m))
    sizes = draw(st.lists(st.integers(1, 80), min_size=m, max_size=m))
    return draws, sizes, draw(st.integers(0, 10**6))


def laid_out(draws, sizes, seed):
    names = [f"d{i}" for i in range(len(draws))]
    available = {n: s * CONTEXT + 3 for n, s in zip(names, sizes)}  # a remainder shorter than a sequence is never read
    return schedule(Mixture(names, [n * CONTEXT for n in draws]), available, CONTEXT, seed)


def pairs(s): return list(zip(s.domain.tolist(), s.sequence.tolist()))


@examples
@given(runs())
def test_exact_and_fresh_first(run):
    draws, sizes, seed = run
    s = laid_out(draws, sizes, seed)
    assert np.bincount(s.domain, minlength=len(draws)).tolist() == draws
    for i, (n, size) in enumerate(zip(draws, sizes)):
        seen = s.sequence[s.domain == i].tolist()
        for epoch in range(0, n, size):  # each full pass holds every sequence once before any is repeated
            passed = seen[epoch:epoch + size]
            assert len(set(passed)) == len(passed) and set(passed) <= set(range(size))
        assert s.epochs[f"d{i}"] == n / size


@examples
@given(runs(), st.data())
def test_nested(run, data):
    draws, sizes, seed = run
    i = data.draw(st.integers(0, len(draws) - 1))
    more = [n * 3 if j == i else n for j, n in enumerate(draws)]
    base, up = laid_out(draws, sizes, seed), laid_out(more, sizes, seed)
    assert not Counter(pairs(base)) - Counter(pairs(up))  # contains the base run
    assert [p for p in pairs(up) if p[0] != i] == [p for p in pairs(base) if p[0] != i]  # all others: the same sequences in the same order
    if more[i] <= sizes[i]:  # no repetition: the base run is a subsequence of the longer one, in order
        rest = iter(pairs(up))
        assert all(p in rest for p in pairs(base))


@examples
@given(st.lists(st.integers(20, 200), min_size=2, max_size=5), st.integers(0, 10**6))
def test_even(draws, seed):
    "In every prefix of the run each domain holds its share, to within a few sequences; drawn by chance, the error would grow with the root of the length."
    s = laid_out(draws, [10**4] * len(draws), seed)
    share = np.array(draws) / sum(draws)
    counts = np.cumsum(np.eye(len(draws))[s.domain], axis=0)
    expected = np.outer(np.arange(1, len(s) + 1), share)
    assert np.abs(counts - expected).max() <= 2 + len(draws)


def test_seeds_differ_and_repeat():
    a, b, c = (laid_out([50, 50], [100, 100], seed) for seed in (0, 1, 0))
    assert pairs(a) == pairs(c) != pairs(b)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_every_batch_without_overlap(store, ranks):
    mixture = Mixture.from_weights(store.domains, [.5, .3, .2], 61 * 64, multiple=64)
    whole = list(Sampler(store, mixture, 64, 8))
    shards = [list(Sampler(store, mixture, 64, 8, 0, rank, ranks)) for rank in range(ranks)]
    assert len(whole) == 8 and sum(real.sum() for _, real in whole) == 61
    for step, (rows, real) in enumerate(whole):
        for rank in range(ranks):
            assert np.array_equal(shards[rank][step][0], rows[rank::ranks]) and np.array_equal(shards[rank][step][1], real[rank::ranks])


def test_rows_are_the_stored_text(store):
    mixture = Mixture.uniform(store.domains, 30 * 64, multiple=64)
    sampler = Sampler(store, mixture, 64, 8)
    rows = np.concatenate([rows[real] for rows, real in Sampler(store, mixture, 64, 8)])
    for row, domain, sequence in zip(rows, sampler.schedule.domain, sampler.schedule.sequence):
        assert np.array_equal(row, store.tokens(store.domains[domain], "train")[sequence * 64:(sequence + 1) * 64])


@pytest.mark.parametrize("stop", range(9))
def test_resuming_from_two_integers(store, stop):
    mixture = Mixture.uniform(store.domains, 60 * 64, multiple=64)
    whole = list(Sampler(store, mixture, 64, 8, seed=5))
    first = Sampler(store, mixture, 64, 8, seed=5)
    for _ in range(min(stop, first.steps)):
        next(first)
    state = json.loads(json.dumps(first.state))
    assert set(state) == {"seed", "position"} and all(isinstance(v, int) for v in state.values())
    second = Sampler(store, mixture, 64, 8, seed=5)
    second.restore(state)
    rest = list(second)
    assert len(rest) == len(whole[stop:])
    assert all(np.array_equal(a, c) and np.array_equal(b, d) for (a, b), (c, d) in zip(whole[stop:], rest))


def test_refusals(store):
    with pytest.raises(InputError, match="whole sequences of 64"):
        Sampler(store, Mixture.uniform(store.domains, 1000), 64, 8)
    with pytest.raises(InputError, match="'news' is not in the token store"):
        Sampler(store, Mixture(("news",), (640,)), 64, 8)
    with pytest.raises(InputError, match="does not divide over 3 ranks"):
        Sampler(store, Mixture.uniform(store.domains, 640 * 3, multiple=64), 64, 8, 0, 0, 3)
    with pytest.raises(InputError, match="less than one sequence"):
        schedule(Mixture(("tiny",), (8,)), {"tiny": 7}, 8, 0)


@examples
@given(runs(), st.data())
def test_fewer_unique_tokens_are_the_first_ones_again(run, data):
    "A limit changes one domain only: a run below it is the run without it, a longer one passes over the first sequences of the first shuffle again and again, each as often as any other but once."
    draws, sizes, seed = run
    i = data.draw(st.integers(0, len(draws) - 1))
    few = data.draw(st.integers(1, sizes[i]))
    names = [f"d{k}" for k in range(len(draws))]
    mixture, available = Mixture(names, [n * CONTEXT for n in draws]), {n: s * CONTEXT + 3 for n, s in zip(names, sizes)}
    free, limited = schedule(mixture, available, CONTEXT, seed), schedule(mixture, available, CONTEXT, seed, {f"d{i}": few * CONTEXT + data.draw(st.integers(0, 3))})
    of = lambda s: s.sequence[s.domain == i].tolist()
    assert [p for p in pairs(limited) if p[0] != i] == [p for p in pairs(free) if p[0] != i] and np.array_equal(limited.domain, free.domain)
    first = schedule(Mixture(names, [min(n, few if k == i else n) * CONTEXT for k, n in enumerate(draws)]), available, CONTEXT, seed)
    assert limited.epochs[f"d{i}"] == draws[i] / few and set(of(limited)) == set(of(first)) == set(of(limited)[:few])
    times_seen = Counter(of(limited)).values()
    assert max(times_seen) - min(times_seen) <= 1
    if draws[i] <= few:
        assert of(limited) == of(free)


def test_unique_tokens_of_what_is_not_there():
    mixture, available = Mixture(("a", "b"), (64, 64)), {"a": 640, "b": 640}
    with pytest.raises(InputError, match="648 unique tokens are asked for, the token store has 640"):
        schedule(mixture, available, CONTEXT, 0, {"a": 648})
    with pytest.raises(InputError, match="-5 unique tokens"):
        schedule(mixture, available, CONTEXT, 0, {"a": -5})
    with pytest.raises(InputError, match="'a' has 7 tokens, less than one sequence"):
        schedule(mixture, available, CONTEXT, 0, {"a": 7})
    with pytest.raises(InputError, match="'c', which is not in the mixture"):
        schedule(mixture, available, CONTEXT, 0, {"c": 64})
