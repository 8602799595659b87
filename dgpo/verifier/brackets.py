"""Cutting an answer at marks that stand outside all of its brackets."""

import re

_OPEN, _CLOSE = "([{", ")]}"
_TOKEN = re.compile(r"\\begin\{[a-zA-Z*]+\}|\\end\{[a-zA-Z*]+\}|\\text\{[^{}]*\}|\\[a-zA-Z]+|\\.|[\s\S]")
_CONJUNCTION = re.compile(r"^\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}$")
_PLAIN_CONJUNCTION = re.compile(r"\\text\{[^{}]*\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")


def split(text: str, mark: str) -> list[str]:
    """The text cut at every `mark` that stands outside all brackets."""
    parts, start = [], 0
    for token, position, depth in scan(text):
        if depth == 0 and token == mark:
            parts.append(text[start:position])
            start = position + len(token)
    return [*parts, text[start:]]


def split_list(text: str) -> list[str]:
    """The items between commas, semicolons, "and" and "or" outside all brackets."""
    text = _PLAIN_CONJUNCTION.sub(lambda m: m[0] if m[0][0] == "\\" else r"\text{and}", text)
    cuts, start = [], 0
    for token, position, depth in scan(text):
        if depth == 0 and (token in (",", ";", r"\lor", r"\vee", r"\land", r"\wedge") or _CONJUNCTION.match(token)):
            cuts.append(text[start:position])
            start = position + len(token)
    cuts.append(text[start:])
    cuts = [c.strip() for c in cuts]
    return [c for c in cuts if c] if len(cuts) > 1 else cuts


def scan(text: str):
    """(token, position, bracket depth before it) of every token."""
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        closing = mark in _CLOSE or mark in (r"\}", r"\rangle", r"\rfloor", r"\rceil") or mark.startswith(r"\end{")
        depth -= closing
        yield mark, token.start(), depth
        depth += mark in _OPEN or mark in (r"\{", r"\langle", r"\lfloor", r"\lceil") or mark.startswith(r"\begin{")


def closes(text: str, start: int, closing: str) -> bool:
    """Whether the bracket opened before `start` is closed by the last token of the text, and by none before."""
    end = len(text) - len(closing)
    return text.endswith(closing) and all(depth > 0 for _, position, depth in scan(text) if start <= position < end)


def peel(text: str) -> str:
    """The text without braces round all of it."""
    text = text.strip()
    while text.startswith("{") and len(text) > 1 and closes(text, 1, "}"):
        text = text[1:-1].strip()
    return text
