"""What the settings of runs, evaluations and sweeps share: their types, what each says of itself, error messages.

temperature: Above0 = setting(1.0, group="rollout", description="of the samples")
"""

import difflib
from collections.abc import Collection
from datetime import date
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from dgpo.errors import ConfigError
from dgpo.plain import has_boolean, path_text, plain, text_encoding

GROUPS = {
    "run": "the folder and the length of a run",
    "method": "how tokens are weighed",
    "policy": "the model, and how it is computed",
    "task": "the problems",
    "rollout": "how completions are sampled",
    "updates": "optimizer steps on each batch",
    "ranks": "processes and GPUs",
    "launch": "what starts the ranks, for `launch`, `dgpo.train` and the notebook `train`",
    "evaluation": "held-out problems, checkpoints and records",
    "scores": "what is computed from judged completions",
    "sweep": "the runs of a sweep",
}

Resume = Literal["fixed", "content", "rounding", "later", "free"]
RESUME = {
    "fixed": "must stay when a run is resumed",
    "content": "may be another path with the same content",
    "rounding": "may change: floating-point sums of later steps may then differ in their last bits",
    "later": "may change: it affects later steps alone",
    "free": "may change: it affects no number",
}

RENAMED = {  # before version 0.2
    "prompts": "prompts_per_step",
    "completions": "group_size",
    "updates": "num_minibatches",
    "rollout_rows": "generation_batch_size",
    "micro_batch": "micro_batch_size",
    "micro_tokens": "max_tokens_per_micro_batch",
    "zero_variance": "filter_groups",
    "resample_rounds": "max_resample_rounds",
    "correction": "importance_correction",
    "correction_cap": "importance_cap",
    "correction_bounds": "importance_bounds",
    "kl_to_start": "log_reference_kl",
    "aggregation": "loss_aggregation",
    "eval_completions": "eval_samples",
    "slip": "step_error_rate",
    "tensorboard": "log_to",
    "chain_problems": "generated_problems",
    "chain_max_new_tokens": "generated_max_new_tokens",
}

GENERATED = {  # tasks whose problems are drawn, which the embedded policy can be warmed up for
    "chain": "dgpo.tasks.chain:ChainTask",
    "countdown": "dgpo.tasks.countdown:CountdownTask",
}
WORDS = "words"  # the other task whose problems are drawn, for language models

LARGEST = 2**31 - 1  # of a count: what a 32-bit number holds
_HUGE = 1e9  # of any other number: as good as without a limit, and no sum of a few overflows


def setting(
    default: Any = ..., *, group: str, description: str, unit: str = "", resume: Resume = "fixed", **limits: Any
) -> Any:
    """A field of Settings that describes itself; `group` is one of GROUPS, `resume` a class of RESUME.

    `limits` are pydantic's, such as min_length.
    """
    if group not in GROUPS or resume not in RESUME:
        raise ValueError(f"group={group!r}, resume={resume!r}: one of {', '.join(GROUPS)} and of {', '.join(RESUME)}")
    about: Any = {"group": group, "unit": unit, "resume": resume}
    return Field(default=default, description=description, json_schema_extra=about, **limits)


Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Encoding = Annotated[str, AfterValidator(text_encoding)]  # of data files that are not UTF-8
Above0 = Annotated[float, Field(gt=0, le=_HUGE)]
AnyNumber = Annotated[float, Field(ge=-_HUGE, le=_HUGE)]
From0 = Annotated[float, Field(ge=0, le=_HUGE)]
Texts = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]  # `key=` is no text
Threads = Annotated[int, Field(ge=0, le=1024)]


def _path(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):  # a Slurm job's number
        value = str(value)
    return path_text(value) if isinstance(value, str) else value


_IS_PATH = BeforeValidator(_path)
PathText = Annotated[str, _IS_PATH]


def _day(value: Any) -> Any:
    """A day as text, which YAML may have read as a date."""
    try:
        return str(value if type(value) is date else date.fromisoformat(value))
    except (TypeError, ValueError):
        raise ValueError("must be a date such as 2026-01-31") from None


Day = Annotated[str, BeforeValidator(_day)]


class Settings(BaseModel):
    """Settings that are typed, known by name and plain: numbers of numpy and paths become Python's own.

    True and false are not numbers, and every number is finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        value, kind = plain(value), cls.model_fields[str(info.field_name)].annotation
        if has_boolean(value) and kind is not bool:
            raise ValueError("true and false are not allowed here")
        if isinstance(value, float) and value.is_integer() and int in (kind, *get_args(kind)):
            return int(value)  # else pydantic does not say what is allowed in place of 1e30
        return value

    @classmethod
    def texts(cls) -> set[str]:
        """The names of the settings that are text, and free."""
        return {name for name, field in cls.model_fields.items() if _is_text(field.annotation)}

    @classmethod
    def resumable(cls, *classes: Resume) -> set[str]:
        """The names of the settings of these classes of RESUME."""
        return {name for name in cls.model_fields if about(cls, name)["resume"] in classes}

    def paths(self) -> dict[str, str]:
        """The settings that are paths, the folder that is written to first: what errors call each, and the path."""
        names = [name for name, field in type(self).model_fields.items() if _is_path(field)]
        names.sort(key=lambda name: about(type(self), name)["group"] != "run")
        given = {name: getattr(self, name) for name in names}
        return {f"{name}={value!r}": value for name, value in given.items() if value}


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with `tiny.steps: 20` put into the mapping `tiny`, over what that has."""
    found = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        outer, dot, inner = name.partition(".")
        if dot and isinstance(found.get(outer, {}), dict):
            found[outer] = {**found.get(outer, {}), inner: value}
        elif dot:
            found[name] = value
    return found


def about(settings: type[Settings], name: str) -> dict[str, str]:
    """Group, unit and class of RESUME of a setting."""
    said = cast(dict[str, str], settings.model_fields[name].json_schema_extra)
    return said or {"group": "", "unit": "", "resume": "fixed"}


def _is_path(field) -> bool:
    return any(_IS_PATH in marks for marks in (field.metadata, *map(_marks, get_args(field.annotation))))


def _marks(kind: Any) -> tuple:
    return getattr(kind, "__metadata__", ())


def _is_text(kind: Any) -> bool:
    inner = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return kind is str or (get_origin(kind) in (Annotated, UnionType, Union) and any(map(_is_text, inner)))


def unknown(name: str, value: Any, known: Collection[str], others: Collection[str] = ()) -> str:
    """The error text for a setting that is not among the `known`; it may have been meant for one of `others`."""
    if RENAMED.get(name) in known:
        return f"unknown setting {name}={value!r}: it is called {RENAMED[name]} now"
    close = difflib.get_close_matches(name, [*known, *others], n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown setting {name}={value!r}{hint}\n  known settings: {', '.join(known)}"


def refusal(error: ValidationError) -> ConfigError:
    """The ConfigError for what pydantic refuses, a line for each setting."""
    said = "\n".join(map(line, error.errors()))
    return ConfigError(f"{said}; {_LISTED}" if said.endswith(_FORMS["extra_forbidden"]) else said)


def line(error) -> str:
    """What an error of pydantic says: the setting, its value, what is allowed."""
    name, said = ".".join(str(part) for part in error["loc"]), error["msg"].removeprefix("Value error, ")
    value, way = error["input"], _FORMS.get(error["type"], "").format(name=name)
    if error["type"] == "extra_forbidden" and (now := RENAMED.get(str(error["loc"][-1]))):
        return f"unknown setting {name}={value!r}: it is called {now} now"
    shown = f"{value:g}" if type(value) is int and abs(value) > _HUGE**2 else repr(value)
    return f"{name}={shown}: {way or said[0].lower() + said[1:]}"


_LISTED = "`python -m dgpo settings` lists them"
_FORMS = {  # for the errors in which pydantic names types of Python
    "list_type": "must be a list, such as {name}=[…]",
    "tuple_type": "must be a list, such as {name}=[…]",
    "model_type": f"has settings of its own, such as {{name}}.NAME=…; {_LISTED}",
    "extra_forbidden": "unknown setting",
}
