"""The answer of a completion: the content of its last closed box, or of the adjacent boxes that end it."""

import re
from enum import StrEnum

MAX_ANSWER = 1_000  # characters; a longer answer or reference is not read
MAX_DEPTH = 40  # nested brackets; a deeper answer is not read either
_TOKEN = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BETWEEN = re.compile(  # two boxes of one list
    r"(?:[\s$,;.&*~]|\\[\s()\[\],;:!\\]|\\q?quad|\\(?:text|mathrm)\{[\s,]*+(?:and|or)?[\s,]*+\}|and\b|or\b|和|或"
    r"|[a-zA-Z](?:'|_[0-9a-z]|_\{[0-9a-z]{1,3}\})?\s*+=)*+"
)


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

    Boxes separated only by commas, "and", "or" and names form one list, so that hedging earns nothing. Of nested
    boxes the outermost counts. A text with dozens of open braces is garbage and is returned unchanged.
    """
    text = completion.rpartition("</think>")[2]
    open_boxes: list[tuple[int, int] | None] = []  # of every open brace: where its box and the content begin
    closed: list[tuple[int, int, int]] = []  # of each outermost box: its start, and its content's start and end
    for token in _TOKEN.finditer(text):
        if token[0] == "{":
            open_boxes.append(None)
        elif token[0] == "}":
            opened = open_boxes.pop() if open_boxes else None
            if opened is not None:
                while closed and closed[-1][0] > opened[0]:
                    closed.pop()
                closed.append((*opened, token.start()))
        elif token[0][-1] == "{" and token[0] != "\\{":
            open_boxes.append(token.span())
    if not closed:
        start = next((box[1] for box in open_boxes if box), None) if len(open_boxes) > MAX_DEPTH else None
        return None if start is None else text[start:]
    first = len(closed) - 1
    while first and _BETWEEN.fullmatch(text, closed[first - 1][2] + 1, closed[first][0]):
        first -= 1
    contents = [unbox(text[start:end]).strip() for _, start, end in closed[first:]]
    return contents[-1] and "; ".join(dict.fromkeys(filter(None, contents)))


def unbox(text: str) -> str:
    """The text with every closed box in it replaced by its content."""
    if not _BOX.search(text):
        return text
    out: list[str] = []
    closers: list[str] = []
    position = end = 0
    for token in _TOKEN.finditer(text):
        out.append(text[position : token.start()])
        position = token.end()
        if token[0] == "}":
            out.append(closers.pop() if closers else "}")
            end = 0 if out[-1] else position
        elif token[0][-1] == "{" and token[0] != "\\{":
            boxed = len(token[0]) > 1
            closers.append("" if boxed else "}")
            out.append("{" if not boxed else ";" if end and not text[end : token.start()].strip() else "")
        else:
            out.append(token[0])
    out.append(text[position:])
    return "".join(out)
