"""The hyper-parameters of a method: the values a field allows, checked whenever a method is made."""

import dataclasses
import math


def param(default, *, above=-math.inf, below=math.inf, optional=False, infinite=False):
    """A hyper-parameter of a method: a dataclass field with a value in the open interval (above, below).

    With `optional`, None turns it off; with `infinite`, math.inf is allowed. Checked whenever a method is made.
    """
    rule = {"above": above, "below": below, "optional": optional, "infinite": infinite}
    return dataclasses.field(default=default, metadata=rule)


def choice(*options: str):
    """A hyper-parameter of a method that is one of these words; the first is the default."""
    return dataclasses.field(default=options[0], metadata={"options": options})


def check(method: str, f: dataclasses.Field, value) -> None:
    """Raise ValueError, which names method and parameter, for a value that its field does not allow."""
    rule = f.metadata
    if "options" in rule and value not in rule["options"]:
        allowed = ", ".join(map(repr, rule["options"]))
        raise ValueError(f"method {method!r}: {f.name}={value!r} must be one of {allowed}")
    if "above" not in rule and f.type in (int, float, "int", "float"):  # as text with `from __future__`
        rule = param(value, optional=f.default is None).metadata  # any finite number
    if "above" not in rule or (value is None and rule["optional"]):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and (rule["above"] < value < rule["below"] or (rule["infinite"] and value == math.inf))):
        end = "]" if rule["infinite"] else ")"
        off = ", or None to turn it off" if rule["optional"] else ""
        raise ValueError(
            f"method {method!r}: {f.name}={value!r} must be a number in ({rule['above']:g}, {rule['below']:g}{end}{off}"
        )
