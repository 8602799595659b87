"""Which problems of a test file also occur in a training file.

A row matches a test problem in one of three ways, each looser than the one before:

    exact    the same text once runs of whitespace are one space
    loose    the same letters and digits, case ignored: punctuation, signs and LaTeX braces do not count
    gram10   at least half of the test problem's distinct 10-grams of words occur in that training problem

A word is a run of a-z and 0-9 or a single CJK character; a text of fewer than ten words has no 10-grams.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

KINDS = ("exact", "loose", "gram10")
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_GRAM, _SHARE = 10, 0.5
_WORD = re.compile(rf"[a-z0-9]+|[{CJK}]")
_NOT_ALPHANUMERIC = re.compile(r"[\W_]+")
_CELLS = 2_000_000  # pairs of a row and a test counted at a time, to keep memory below 100 MB


@dataclass(frozen=True)
class Row:
    """A readable row: its name, its problem as text ("" if there is none), its answer as given."""

    name: str
    text: str
    answer: object


def contamination(rows: Sequence[Row], tests: Sequence[Row], every: bool = True) -> list[tuple[str, str, str, float]]:
    """(kind, test name, row name, share of the test's 10-grams) of every matching pair, with its strictest kind.

    `every=False` gives one pair for each test, of its strictest kind: all that `matched` needs, in bounded memory.
    """
    found: dict[tuple[int, int], tuple[str, float | None]] = {}  # by (test, row)
    left = [*range(len(tests))]
    for kind, key, share in (("exact", exact_key, 1.0), ("loose", loose_key, None)):
        index: dict[str, list[int]] = {}
        for i in left:
            index.setdefault(key(tests[i].text), []).append(i)
        index.pop("", None)
        look = index.get if every else index.pop
        for j, row in enumerate(rows):
            for i in look(key(row.text), ()):
                found.setdefault((i, j), (kind, share))
        if not every:
            done = {i for i, _ in found}
            left = [i for i in left if i not in done]
    for i, j, share in _Grams([tests[i].text for i in left]).matches([row.text for row in rows], every):
        found.setdefault((left[i], j), ("gram10", share))
    return [
        (kind, tests[i].name, rows[j].name, _share(tests[i].text, rows[j].text) if share is None else share)
        for (i, j), (kind, share) in found.items()
    ]


def matched(pairs: list[tuple[str, str, str, float]]) -> dict[str, int]:
    """How many test problems have a match of each kind or of a stricter one."""
    out, names = {}, set()
    for kind in KINDS:
        names |= {test for found, test, _, _ in pairs if found == kind}
        out[kind] = len(names)
    return out


def exact_key(text: str) -> str:
    return " ".join(text.split())


def loose_key(text: str) -> str:
    """Letters and digits of any script; "" where there are none, which matches nothing."""
    return _NOT_ALPHANUMERIC.sub("", text.lower())


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@functools.lru_cache(maxsize=4096)
def _share(test: str, row: str) -> float:
    """The share of a test's 10-grams that occur in a row; 1 for a test without any."""
    theirs, ours = (set(zip(*(words(text)[i:] for i in range(_GRAM)), strict=False)) for text in (test, row))
    return len(theirs & ours) / len(theirs) if theirs else 1.0


class _Grams:
    """The 10-grams of test problems, to count those that a row has.

    Problems made from one template share most 10-grams. All 10-grams that occur in exactly the same tests form one
    column here: the work for a row then grows with the number of tests, not with tests times 10-grams.
    """

    def __init__(self, tests: Sequence[str]):
        from scipy.sparse import csr_array

        self._vocabulary: dict[str, int] = {}
        for word in chain.from_iterable(map(words, tests)):
            self._vocabulary.setdefault(word, len(self._vocabulary))
        # 10-grams are compared by 64-bit hashes made of fixed random numbers: among ten million, two
        # collide with a probability below 10^-5.
        random = np.random.default_rng(0)
        self._codes = random.integers(2**64, size=len(self._vocabulary) + 1, dtype=np.uint64)
        self._factors = random.integers(2**63, size=_GRAM, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        owner, hashed = self._of(tests)
        self._known, gram = np.unique(hashed, return_inverse=True)
        owner, gram = np.unique(np.stack([owner, gram]), axis=1)
        self._sizes = np.bincount(owner, minlength=len(tests))
        where = np.zeros(len(self._known), np.uint64)  # of each 10-gram: a hash of the set of tests that hold it
        np.add.at(where, gram, random.integers(2**64, size=len(tests), dtype=np.uint64)[owner])
        sets, self._column = np.unique(where, return_inverse=True)
        self._sets = len(sets)
        entries = np.unique(np.stack([self._column[gram], owner]), axis=1)
        self._table = csr_array((np.ones(entries.shape[1], np.int32), tuple(entries)), (len(sets), len(tests)))

    def matches(self, rows: Sequence[str], every: bool) -> Iterator[tuple[int, int, float]]:
        """(test, row, share of the test's 10-grams) where the share is at least a half; without `every`, one row a
        test."""
        open_, table = np.flatnonzero(self._sizes), self._table
        step = max(1, min(2000, _CELLS // max(1, len(self._sizes))))
        for start in range(0, len(rows), step):
            if not len(open_):
                return
            counts = (self._counts(rows[start : start + step]) @ table[:, open_]).tocoo()
            shares = counts.data / self._sizes[open_[counts.col]]
            hit = np.flatnonzero(shares >= _SHARE)
            if not every:
                hit = hit[np.unique(counts.col[hit], return_index=True)[1]]
            yield from zip(
                open_[counts.col[hit]].tolist(), (start + counts.row[hit]).tolist(), shares[hit].tolist(), strict=True
            )
            if not every:
                open_ = np.delete(open_, counts.col[hit])

    def _counts(self, rows: Sequence[str]):
        """How many distinct 10-grams of each column each row has, sparse `[rows, columns]`."""
        from scipy.sparse import csr_array

        owner, hashed = self._of(rows)
        place = np.searchsorted(self._known, hashed)
        place[place == len(self._known)] = 0
        there = self._known[place] == hashed if len(self._known) else np.zeros(0, bool)
        different = np.unique(owner[there] * len(self._known) + place[there])
        owner, gram = np.divmod(different, max(1, len(self._known)))
        ones = np.ones(len(gram), np.int32)
        return csr_array((ones, (owner, self._column[gram])), (len(rows), self._sets))

    def _of(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(index of the text, hash) of every 10-gram of words that occurs in the tests."""
        found = [words(text) for text in texts]
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        unknown = len(self._vocabulary)
        numbers = np.fromiter(
            (self._vocabulary.get(word, unknown) for word in chain.from_iterable(found)), np.int64, lengths.sum()
        )
        owner = np.repeat(np.arange(len(found)), lengths)
        first, last = owner[: 1 - _GRAM], owner[_GRAM - 1 :]
        strange = np.concatenate([[0], np.cumsum(numbers == unknown)])
        whole = (first == last) & (strange[_GRAM:] == strange[:-_GRAM])
        hashed = np.zeros(len(last), np.uint64)
        for k, factor in enumerate(self._factors):
            hashed += self._codes[numbers[k : k + len(last)]] * factor
        return first[whole], hashed[whole]
