"""Countdown: expressions read exactly, problems split for good, and a policy that is warmed up on random trials."""

import random
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import make_batch

import dgpo
from dgpo.config import ConfigError
from dgpo.config_parts import TinyPolicy
from dgpo.evaluation.heldout import evaluate
from dgpo.model import tiny
from dgpo.rollout import Sampler
from dgpo.tasks import countdown
from dgpo.tasks.chain import ChainTask
from dgpo.tasks.countdown import CountdownTask
from dgpo.tasks.expression import LONGEST, parse
from dgpo.tasks.generated import is_heldout

TREES = st.recursive(st.integers(0, 99), lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner), max_leaves=8)


def value(tree):
    """By the definition of the operations; None where something is divided by zero."""
    if isinstance(tree, int):
        return Fraction(tree)
    sign, a, b = tree[0], value(tree[1]), value(tree[2])
    if a is None or b is None or (sign == "/" and b == 0):
        return None
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[sign]()


def written(tree):
    """With every parenthesis."""
    return str(tree) if isinstance(tree, int) else f"({written(tree[1])}{tree[0]}{written(tree[2])})"


def leaves(tree):
    return (tree,) if isinstance(tree, int) else leaves(tree[1]) + leaves(tree[2])


def mirrored(tree):
    """Summands and factors in the other order."""
    if isinstance(tree, int):
        return tree
    sign, a, b = tree[0], mirrored(tree[1]), mirrored(tree[2])
    return (sign, b, a) if sign in "+*" else (sign, a, b)


class TestExpressions:
    @given(TREES)
    def test_an_expression_has_its_exact_value_and_its_numbers_in_order(self, tree):
        text = written(tree)
        if value(tree) is None or len(text) > LONGEST:
            with pytest.raises(ValueError):
                parse(text)
        else:
            assert parse(text).value == value(tree)
            assert parse(text).numbers == leaves(tree)

    @given(TREES)
    def test_the_order_of_summands_and_factors_does_not_change_the_form(self, tree):
        if value(tree) is not None and len(written(tree)) <= LONGEST:
            assert parse(written(mirrored(tree))).form == parse(written(tree)).form

    @given(st.text("0123456789+-*/() ", max_size=30) | st.text(max_size=10))
    def test_any_text_is_an_expression_or_a_value_error(self, text):
        try:
            found = parse(text)
        except ValueError:
            return
        assert "".join(map(str, found.numbers)) == "".join(str(int(n)) for n in re.findall("[0-9]+", text))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("8-3-2", 3),
            ("8/4/2", 1),
            ("2+3*4", 14),
            ("(2+3)*4", 20),
            ("1/3*3", 1),
            ("8-(3-2)", 7),
            ("8/(4/2)", 4),
            ("((7))", 7),
        ],
    )
    def test_precedence_and_order_from_the_left(self, text, expected):
        assert parse(text).value == expected

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "its end"),
            ("3+", "its end"),
            ("-3", "'-' where a number"),
            ("3--2", "'-' where a number"),
            ("(3+2", "not closed"),
            ("3+2)", r"does not end after an expression: '\)' follows"),
            ("3 4", "characters other"),
            ("3**2", r"'\*' where a number"),
            ("2(3)", "does not end"),
            ("3²", "characters other"),
            ("٣+1", "characters other"),
            ("__import__('os')", "characters other"),
            ("7/(3-3)", "division by zero"),
            ("(" * 5000, "5000 characters"),
        ],
    )
    def test_what_is_no_expression_says_why(self, text, why):
        with pytest.raises(ValueError, match=why):
            parse(text)

    @pytest.mark.parametrize(
        ("a", "b", "same"),
        [
            ("(9-4)*6-3", "6*(9-4)-3", True),
            ("5-(3-2)", "5+2-3", True),
            ("8/(4/2)", "8*2/4", True),
            ("(1+2)+3", "3+(2+1)", True),
            ("5-3", "3-5", False),
            ("2*3+4", "2*(3+4)", False),
            ("6+6", "4*3", False),  # one value, two ways
        ],
    )
    def test_forms_tell_apart_what_is_calculated_otherwise(self, a, b, same):
        assert (parse(a).form == parse(b).form) is same


class TestProblems:
    def test_no_problem_is_on_both_sides(self):
        task = CountdownTask(3, seed=0, heldout=140)
        train = {task.train(i).id for i in range(3000)}
        held = {p.id for p in task.heldout}
        assert len(train) > 500
        assert {len(countdown.read(text)[0]) for text in train | held} == {3}
        assert len(held) == 140
        assert not train & held
        assert all(is_heldout(text) for text in held)
        for text in train | held:  # one text for each problem: its numbers are sorted
            numbers, _ = countdown.read(text)
            assert numbers == sorted(numbers)

    def test_the_stream_is_a_function_of_seed_and_position_and_the_heldout_set_of_neither(self):
        a, b = CountdownTask(4, 0, 16), CountdownTask(4, 1, 16)
        assert [a.train(i) for i in (7, 3)] == [CountdownTask(4, 0, 16).train(i) for i in (7, 3)]
        assert [a.train(i) for i in range(8)] != [b.train(i) for i in range(8)]
        assert a.heldout == b.heldout

    @pytest.mark.parametrize("difficulty", [2, 3])
    def test_more_problems_are_held_out_than_may_be_asked_for(self, difficulty):
        numbers = combinations_with_replacement(range(1, 10), difficulty)
        texts = (f"{','.join(map(str, n))}={t}" for n in numbers for t in countdown.reachable(n))
        assert 1.5 * CountdownTask.available(difficulty) < sum(map(is_heldout, texts))
        with pytest.raises(ConfigError, match=f"eval_problems=999 must be at most .* at difficulty={difficulty}"):
            CountdownTask(difficulty, 0, 999)

    def test_one_number_reaches_nothing(self):
        with pytest.raises(ConfigError, match="eval_problems=1 must be at most 0 at difficulty=1"):
            CountdownTask(1, 0, 1)

    @given(st.integers(2, 5), st.integers(0, 10**6))
    def test_every_target_can_be_reached(self, difficulty, seed):
        rng = random.Random(seed)
        numbers, target = countdown.read(countdown.draw(rng, difficulty, heldout=False).answer)
        ends = {parse(countdown.trial(numbers, rng)[1][-1]).value for _ in range(30)}
        assert ends & {*range(countdown.LARGEST + 1)} == ends  # whole, and each one token
        assert {e for e in ends if e >= 10} <= {*countdown.reachable(tuple(numbers))}
        assert target in countdown.reachable(tuple(numbers))


class TestRewards:
    @pytest.mark.parametrize(
        ("completion", "reward", "verdict"),
        [
            (r"9-4=5</think>\boxed{(9-4)*6-3}", 1, "correct"),
            (r"\boxed{6*(9-4)-3}", 1, "correct"),
            (r"\boxed{3*9}", 1, "correct"),  # not all of the numbers
            (r"\boxed{1}\boxed{3*9}", 1, "correct"),  # the last box
            (r"\boxed{3*9-4}", 0, "wrong"),
            (r"\boxed{9+9+9}", 0, "wrong"),  # 9 is there once
            (r"\boxed{3*3*3}", 0, "wrong"),
            (r"\boxed{27}", 0, "wrong"),  # the target is not one of the numbers
            (r"\boxed{30-3}", 0, "wrong"),
            (r"\boxed{3*9", 0, "no_answer"),
            ("3*9", 0, "no_answer"),
            ("", 0, "no_answer"),
            (r"\boxed{}", 0, "unparsed"),
            (r"\boxed{3*9=27}", 0, "unparsed"),
            (r"\boxed{9/(3-3)}", 0, "unparsed"),
            (r"\boxed{" + "(" * 10**5 + "}", 0, "unparsed"),
        ],
    )
    def test_only_an_expression_of_the_numbers_that_equals_the_target_earns_one(self, completion, reward, verdict):
        task = CountdownTask(4, 0, 1)
        problem = countdown.Problem("3,4,6,9=27", "", "3,4,6,9=27")
        assert task.rewards([problem], [completion]) == [reward]
        assert task.verdicts == {verdict: 1}

    def test_coverage_counts_the_distinct_right_expressions_of_a_problem(self):
        task = CountdownTask(4, 0, 1)
        task.heldout = [countdown.Problem(t, t, t) for t in ("3,4,6,9=27", "1,2,3,9=99")]
        texts = [r"\boxed{3*9}", r"\boxed{9*3}", r"\boxed{(9-4)*6-3}", r"\boxed{27}", *[r"\boxed{9*9}"] * 4]

        class Fixed(Sampler):
            def generate(self, prompts, seeds, sampling):
                return make_batch([[0]] * 8, [[i] for i in range(8)])

        class Words:
            def __call__(self, prompts, add_special_tokens):
                return type("Ids", (), {"input_ids": [[0]] * len(prompts)})

            def batch_decode(self, rows, skip_special_tokens):
                return [texts[i] for (i,) in rows]

        found = evaluate(Fixed(), Words(), task, 4, None).metrics()
        assert found["eval/avg@4"] == 3 / 8
        assert found["eval/coverage@4"] == 1.0  # two ways to the first target, none to the second


class TestWarmUp:
    @pytest.mark.parametrize("rate", [0.0, 0.3])
    def test_a_worked_example_is_a_trial_under_the_target_at_which_it_ended(self, rate):
        rng, settings = random.Random(0), TinyPolicy(max_difficulty=4, step_error_rate=rate)
        kept, wrong, steps, solved = Counter(), 0, 0, 0
        for _ in range(600):
            prompt, completion = countdown.example(rng, settings)
            numbers, target = countdown.read(prompt.removesuffix("<think>"))
            worked, box = completion.split("</think>")
            assert numbers == sorted(numbers)
            assert not is_heldout(prompt.removesuffix("<think>"))
            tried = [int(n) for n in re.findall(r"(?:^|[-+*/])(\d+)", worked)]
            assert sorted(tried) == numbers
            assert worked.endswith(f"={target}")
            found = parse(box.removeprefix("\\boxed{").removesuffix("}"))
            assert list(found.numbers) == tried[: len(found.numbers)]  # the trial up to one of its steps
            kept[len(numbers), len(found.numbers)] += 1
            for step, result in re.findall(r"(?=(?:^|=)(\d+[-+*/]\d+)=(\d+))", worked):
                steps += 1
                wrong += parse(step).value != int(result)
            solved += found.value == target and len(found.numbers) == len(numbers)
        assert {*kept} == {(2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (4, 4)}
        assert all(kept[4, n] > 0.2 * kept.total() / 3 for n in (2, 3, 4))  # at random
        assert wrong / steps == pytest.approx(rate, abs=0.04)
        whole = sum(kept[n, n] for n in (2, 3, 4))
        assert (solved == whole) is (rate == 0)

    @pytest.mark.parametrize("difficulty", [2, 3, 4, 5])
    def test_the_room_that_is_asked_for_is_what_the_longest_example_takes(self, difficulty):
        rng, words = random.Random(0), CountdownTask.tokenizer()
        settings = TinyPolicy(max_difficulty=difficulty)
        prompts, completions = zip(*(countdown.example(rng, settings) for _ in range(3000)), strict=True)
        prompts, completions = words([*prompts]).input_ids, words([*completions]).input_ids
        assert max(map(len, completions)) + 1 == CountdownTask.completion_tokens(difficulty)
        assert max(map(len, prompts)) == CountdownTask.prompt_tokens(difficulty)
        assert words.unk_token_id not in {i for ids in prompts + completions for i in ids}

    def test_each_task_has_a_policy_of_its_own_and_that_of_chain_keeps_its_key(self):
        settings = TinyPolicy()
        assert tiny.key(settings) == "75386ece9ce1"
        assert tiny.key(settings, CountdownTask) != tiny.key(settings)

        class Own(ChainTask):
            pass

        assert tiny.key(settings, Own) != tiny.key(settings)


class TestRuns:
    def test_a_run_and_an_evaluation_of_its_policy(self, small, tmp_path):
        sizes = {"difficulty": 2, "max_new_tokens": 14, "eval_problems": 4}
        run = dgpo.train(**small | sizes | {"task": "countdown"})
        assert run.metrics["eval/coverage@2"].notna().any()
        sizes = {"difficulty": 2, "generated_max_new_tokens": 14, "generated_problems": 4, "n": 2}
        folder = tmp_path / "eval"
        found = dgpo.evaluate(run.policy, benchmarks=["countdown"], eval_dir=str(folder), **sizes)
        assert found is not None

    def test_too_little_room_names_the_setting(self, small):
        with pytest.raises(ConfigError, match="max_new_tokens=25 must be at least 26: a problem of difficulty=4"):
            dgpo.train(**small | {"task": "countdown", "difficulty": 4, "max_new_tokens": 25})

    def test_the_embedded_policy_knows_one_task(self):
        with pytest.raises(ConfigError, match="model='tiny' is warmed up for one of them"):
            dgpo.evaluate("tiny", benchmarks=["chain", "countdown"])
