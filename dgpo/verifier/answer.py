"""What a completion answers: the content of its last closed box."""

import re
from enum import StrEnum

MAX_ANSWER = 1_000  # characters of an answer or a reference; a longer one is not read
MAX_DEPTH = 40  # brackets within one another; nor is a deeper one
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


class Verdict(StrEnum):
    """What became of a completion; only `correct` earns a reward.

    correct     the answer equals the reference
    wrong       it is something else
    no_answer   there is no closed box, or the box is empty
    unparsed    there is a box whose content cannot be read as an answer
    timeout     judging it took more time or memory than allowed
    """

    correct = "correct"
    wrong = "wrong"
    no_answer = "no_answer"
    unparsed = "unparsed"
    timeout = "timeout"


def final_answer(completion: str) -> str | None:
    """The content of the last closed `\\boxed{}` or `\\fbox{}` after `</think>`, if that occurs; None without a box.

    One pass with a stack of open braces, so that thousands of unclosed boxes cost no more than as many letters.
    `\\{` and `\\}` are not braces. Of boxes within one another the outermost closed one counts, its marks removed.
    Braces left open by the dozen are garbage and no truncated answer; then the rest of the text is returned as it is.
    """
    text = completion.rpartition("</think>")[2]
    open_boxes: list[int | None] = []  # for every open brace: where its box's content starts, None if it is no box
    last: tuple[int, int] | None = None
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            open_boxes.append(None)
        elif token[0] == "}":
            start = open_boxes.pop() if open_boxes else None
            if start is not None:
                last = (start, token.start())
        elif token[0][-1] == "{" and token[0] != "\\{":
            open_boxes.append(token.end())
    if last is None:
        start = next(filter(None, open_boxes), None) if len(open_boxes) > MAX_DEPTH else None
        return None if start is None else text[start:]
    return unbox(text[slice(*last)]).strip()


def unbox(text: str) -> str:
    """The text with every closed box in it replaced by its content."""
    if not _BOX.search(text):
        return text
    out: list[str] = []
    closers: list[str] = []
    position = 0
    for token in _TOKEN.finditer(text):
        out.append(text[position : token.start()])
        position = token.end()
        if token[0] == "}":
            out.append(closers.pop() if closers else "}")
        elif token[0][-1] == "{" and token[0] != "\\{":
            boxed = len(token[0]) > 1
            closers.append("" if boxed else "}")
            out.append("" if boxed else "{")
        else:
            out.append(token[0])
    out.append(text[position:])
    return "".join(out)
