"""Rewards that are ready to use, in TRL's convention: reward=dgpo.rewards:think_format_reward.

Prompts and completions are lists of texts, or of messages; other columns of the file are ignored unless a function
names them. Each returns a list of floats, one for each completion.
"""

import re
from collections.abc import Sequence
from typing import Any

_OPENED = re.compile(r"<think>\s*\Z")
_THOUGHT = re.compile(r"\s*<think>((?!</?think>).)*</think>((?!</?think>).)*\S((?!</?think>).)*\Z", re.DOTALL)


def think_format_reward(prompts: Sequence, completions: Sequence, **_: Any) -> list[float]:
    """1 for `<think>` reasoning `</think>` and then an answer, each tag once, nothing before; else 0.

    The first tag is not asked for where the prompt ends with it. A conversation does not show whether its chat template
    opens the tag, so there the completion may begin with it or not. Source: DeepSeek-R1, arXiv 2501.12948.
    """
    found = []
    for asked, completion in zip(prompts, completions, strict=True):
        text = _text(completion)
        opened = bool(_OPENED.search(asked)) if isinstance(asked, str) else "<think>" not in text
        found.append(float(bool(_THOUGHT.match("<think>" * opened + text))))
    return found


def length_reward(completions: Sequence, target_words: Sequence[float], **_: Any) -> list[float]:
    """−min(1, |n − n*| / n*) for n words where the column `target_words` asks for n* > 0.

    Source: LCPO-Exact, −α |n − n*| in tokens, of L1, arXiv 2503.04697; here relative to n*, in words.
    """
    pairs = zip(map(_words, completions), target_words, strict=True)
    return [-min(1.0, abs(n - target) / target) for n, target in pairs]


def max_length_reward(completions: Sequence, max_words: Sequence[float], **_: Any) -> list[float]:
    """clip(0.5 + (n* − n) / n*, 0, 1) for n words where the column `max_words` allows n* > 0.

    1 up to half of what is allowed, 0.5 at all of it. Source: LCPO-Max, clip(α (n* − n) + 0.5, 0, 1) in tokens, of L1,
    arXiv 2503.04697; here relative to n*, in words.
    """
    pairs = zip(map(_words, completions), max_words, strict=True)
    return [min(1.0, max(0.0, 0.5 + (most - n) / most)) for n, most in pairs]


def _words(completion: Any) -> int:
    return len(_text(completion).split())


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
