"""TRL's own reward functions run unchanged, those that read token ids too."""

import pytest

pytest.importorskip("trl", reason="trl is not installed: make test-peers")

from dgpo.tasks.rewards import Rewards

OURS = """
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

overlong = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)
cosine = get_cosine_scaled_reward(max_len=100)
repetition = get_repetition_penalty_reward(ngram_size=2)
"""
NAMES = ["ours:overlong", "ours:cosine", "ours:repetition", "trl.rewards:accuracy_reward"]


@pytest.mark.parametrize(
    ("text", "ids", "values"),
    [
        (r"\boxed{\frac{1}{3}}", list(range(50)), [0, 0.75, 0, 1]),
        (r"\boxed{\frac{1}{2}}", [*range(90)], [-0.5, -0.5122359, 0, 0]),
        ("three", [1] * 5, [0, -0.9969221, -0.75, 0]),
    ],
)
def test_of_one_completion(tmp_path, monkeypatch, text, ids, values):
    (tmp_path / "ours.py").write_text(OURS)
    monkeypatch.chdir(tmp_path)
    rewards = Rewards(NAMES, timeout=60, workers=1)
    try:
        rewards.check(["solution"], "row 1")
        asked, reply = [{"role": "user", "content": "1/3?"}], [{"role": "assistant", "content": text}]
        assert rewards([asked], [reply], [{"solution": r"\frac{1}{3}"}], [ids]) == [pytest.approx(sum(values))]
        assert [total for total, _ in rewards.means().values()] == pytest.approx(values)
    finally:
        rewards.close()
