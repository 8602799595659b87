r"""Answers and what they are worth by mathematics, by kind: (reference, content of the box, whether it is right).

`TABLE` made the rules of the verifier; its kind `attacks` holds answers that were written to be accepted wrongly, and
some that are right beside them. `BLIND` was written and judged by mathematics without a look at it: of its first
468 cases 408 were judged rightly, and the rules that came of the rest are in its modules. Seven that are still rejected
are not kept (docs/verifier.md), and one was judged wrongly: 8 in base nine is 8. The kind `hacks` of both holds what a
policy could be rewarded for without knowing the answer; none of it may be accepted.
"""

from pathlib import Path


def boxed(answer):
    return rf"<think>Let me see.</think> So it is \boxed{{{answer}}}."


def _read(name: str) -> dict[str, list[tuple[str, str, bool]]]:
    """The cases of a table beside this file, whose fields are as they stand: a backslash is a backslash."""
    cases = {}
    for line in (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()[1:]:
        kind, reference, answer, worth = line.split("\t")
        cases.setdefault(kind, []).append((reference, answer, {"right": True, "wrong": False}[worth]))
    return cases


TABLE, BLIND = _read("verifier_cases.tsv"), _read("verifier_cases_blind.tsv")
TABLE["unicode"].append(("5", "5\u200b", True))  # not to be seen in a file

# Whole completions.
COMPLETIONS = [
    ("8", r"\boxed{8}", True),
    ("8", r"First \boxed{7}. Wait, \boxed{8}.", True),
    ("8", r"First \boxed{8}. Wait, \boxed{7}.", False),
    ("8", r"<think>\boxed{8}</think> The answer is 8.", False),
    ("8", r"<think>\boxed{7}</think> The answer is \boxed{8}.", True),
    ("8", r"<think>\boxed{8}</think> The answer is \boxed{7}.", False),
    ("8", r"The answer is 8", False),
    ("8", r"\boxed{8", False),
    ("8", r"\boxed{8}}", True),
    ("8", r"\boxed 8", False),
    ("8", r"\boxed{\boxed{8}}", True),
    ("8", r"\boxed{7 \boxed{8}}", False),
    ("8", r"$\boxed{8}$ and not $\boxed{9}$", False),
    ("8", r"\boxed{\text{The answer is 8}}", True),
    ("8", r"\boxed{\text{I don't know}}", False),
    ("8", "\\boxed{\n8\n}", True),
    ("8", r"\boxed{}", False),
    ("8", r"\boxed{8}" + " ha" * 30000, True),
    ("8", "ha " * 30000 + r"\boxed{8}", True),
    ("8", r"</think></think>\boxed{8}", True),
    ("8", r"\boxed{8}</think>", False),
    ("8", r"\boxed{" + "0" * 900 + "8}", True),
    ("8", r"\boxed{" + "8," * 400 + "8}", False),
    ("8", r"\boxed{\boxed{8}\boxed{9}}", False),
    ("8", r"\framebox{8}", False),
    ("8", r"\boxed{8}\boxed{}", False),
    ("8", r"```python" "\n" r"print(r'\boxed{8}')" "\n```", True),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}} \text{ since } \frac{1}{2}", True),
    (r"\frac{1}{2}", r"\boxed{\frac{1}{2}", False),
    (r"\{1,2\}", r"\boxed{\{1,2\}}", True),
    (r"\{1,2\}", r"\boxed{\left\{1,2\right\}}", True),
    (r"1,2", r"\boxed{1} and \boxed{2}", True),
    (r"2", r"\boxed{1} and \boxed{2}", False),
    (r"2", r"\boxed{1}, \boxed{2}", False),
    (r"2", r"\boxed{1}\boxed{2}", False),
    (r"2", r"\boxed{1}  \boxed{2}", False),
    (r"12", r"\boxed{1}\boxed{2}", False),
    (r"2", r"\boxed{\boxed{1}\boxed{2}}", False),
    (r"12", r"\boxed{\boxed{1}\boxed{2}}", False),
    (r"2", r"\boxed{2}, \boxed{2}", True),
    (r"2", r"\boxed{1}. Wait, \boxed{2}", True),
    (r"2", r"$x=\boxed{1}$ or $x=\boxed{2}$", False),
    (r"1,2", r"$x=\boxed{1}$ or $x=\boxed{2}$", True),
    (r"1", r"\boxed{1} or \boxed{}", False),
    (r"(1,2)", r"\boxed{1}, \boxed{2}", True),
    (r"(1,2)", r"\boxed{2}, \boxed{1}", False),
    (r"\{1,2\}", r"\boxed{1}, \boxed{2}, \boxed{3}", False),
    (r"5", r"\boxed{4} and \boxed{5}", False),
    (r"5", r"\boxed{5} and \boxed{4}", False),
    (r"5", r"\boxed{5} or $\boxed{5.0}$", False),
    (r"5", r"\boxed{4}, that is wrong, \boxed{5}", True),
    (r"45", r"\boxed{4}\boxed{5}", False),
    (r"45", r"\boxed{4},\boxed{5}", False),
    (r"\frac{4}{5}", r"\boxed{4}/\boxed{5}", False),
]
