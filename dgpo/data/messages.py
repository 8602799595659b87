"""Problems that are conversations: lists of messages {role, content}, as the conversational data sets of TRL have them.

{"prompt": [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1?"}], "answer": "2"}
"""

from typing import Any

ROLES = ("system", "user", "assistant", "tool")


def messages_fault(messages: list) -> str:
    """What keeps a list from being a conversation that a policy can answer; empty if nothing does."""
    if not messages:
        return "has no message"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            return f"message {number} is {type(message).__name__} {message!r}, not an object with 'role' and 'content'"
        for name in ("role", "content"):
            if not isinstance(message.get(name), str):
                what = f"{message[name]!r} as {name!r}, not text" if name in message else f"no {name!r}"
                return f"message {number} has {what}; each needs a 'role' and a 'content'"
        if message["role"] not in ROLES:
            return f"message {number} has the role {message['role']!r}, not one of {', '.join(ROLES)}"
    if messages[-1]["role"] not in ("user", "tool"):
        return f"the last message is by {messages[-1]['role']!r}; end with one by user or tool"
    return "" if messages[-1]["content"].strip() else "the last message is empty"


def messages_of(problem: Any) -> list[dict[str, Any]] | None:
    """The messages of a problem that is a conversation."""
    return problem if isinstance(problem, list) else None


def problem_text(problem: Any) -> str:
    """A problem as one text: of a conversation, the contents of its messages; "" for what is no problem."""
    if isinstance(problem, list):
        return "\n".join(str(m.get("content", "")) for m in problem if isinstance(m, dict))
    return problem if isinstance(problem, str) else ""
