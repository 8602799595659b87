"""The model card of a trained policy, policy/README.md, and its push to the Hugging Face hub (`hub=owner/name`).

The card is written offline, from the settings and the summary of the run; local paths are shortened to their names.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dgpo.config import Config, ConfigError
from dgpo.errors import Explained, one_line
from dgpo.run.identity import MadeOf

_Score = tuple[float, float | None, float | None]  # with its interval, if it has one
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PLACES = {"run_dir", "hub", "resume", "overwrite", "accept_changes", "log_to"}  # they say nothing of the policy


class HubError(Explained):
    """The push failed; the policy in the run folder is whole."""


def check(config: Config) -> None:
    """Raise ConfigError if nothing can be pushed to `hub` from here: no token, or the hub is switched off."""
    if not config.hub:
        return
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ConfigError(f"hub={config.hub!r} cannot be reached with HF_HUB_OFFLINE=1: unset it, or leave hub out")
    if not get_token():
        raise ConfigError(f"hub={config.hub!r} needs a token that may write there: hf auth login, or HF_TOKEN")


def push(config: Config, policy: Path) -> None:
    """Upload the folder of a policy to `hub`; a repository that does not exist yet becomes a private one.

    Raises HubError.
    """
    if not config.hub:
        return
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(config.hub, private=True, exist_ok=True)
        api.upload_folder(repo_id=config.hub, folder_path=policy, commit_message=f"dgpo, {config.steps} steps")
    except Exception as error:
        said = one_line(error)
        raise HubError(f"hub={config.hub!r}: {said}; {policy} is whole, resume=true pushes it again") from error


def write_card(folder: Path, config: Config, summary: dict[str, Any], made_of: MadeOf) -> None:
    """Write README.md: method, parameters, data and results, for people and, in its head, for the hub."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    name = (config.hub or Path(config.run_dir).name).rpartition("/")[2]
    source, scores = config.data or config.task, _scores(summary["after"])
    head = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=config.model if _on_hub(config.model) else None,
        datasets=[config.data.partition(":")[0]] if config.data and _on_hub(config.data) else None,
        tags=["dgpo", "reinforcement-learning", config.method.replace(":", ".")],
        model_name=name,
        eval_results=[
            EvalResult("text-generation", config.task.replace(":", "."), _shown(source), metric, round(score, 4))
            for metric, (score, *_) in scores.items()
        ]
        or None,
    )
    parts = [f"# {name}", _trained(config, summary), "## Results", _results(config, summary)]
    parts += ["## Data", _data(config, made_of), "## Settings", "Those that differ from the defaults:"]
    parts += [f"```yaml\n{yaml.safe_dump(_changed(config), sort_keys=False, allow_unicode=True)}```"]
    ModelCard(f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n").save(folder / "README.md")


def _trained(config: Config, summary: dict[str, Any]) -> str:
    given = ", ".join(f"{name} = {value}" for name, value in config.method_params.items())
    versions = ", ".join(f"{package} {version}" for package, version in summary["versions"].items())
    return (
        f"`{_shown(config.model)}`, trained by reinforcement learning with the method **{config.method}**"
        f"{f' ({given})' if given else ''}: {summary['steps']} steps of {config.prompts_per_step} prompts with "
        f"{config.group_size} completions each, learning rate {config.lr:g}, seed {config.seed}. Made with {versions}."
    )


def _results(config: Config, summary: dict[str, Any]) -> str:
    before, after = _scores(summary["before"]), _scores(summary["after"])
    lines = ["| | before | after |", "|---|---|---|"]
    lines += [f"| {name} | {_cell(before.get(name))} | {_cell(after.get(name))} |" for name in {**before, **after}]
    return "\n".join(lines) + (
        f"\n\n{config.eval_problems} held-out problems, {config.eval_samples} completions of each at temperature "
        f"{config.eval_temperature:g}; 95 % intervals over problems. One run with one seed."
    )


def _data(config: Config, made_of: MadeOf) -> str:
    lines = [f"- task: `{config.task}`" + (f", difficulty {config.difficulty}" if not config.data else "")]
    for setting in ("data", "eval_data"):
        if value := getattr(config, setting):
            found = made_of.get("data", {}).get(setting, "")
            lines.append(f"- {setting}: `{_shown(value)}`" + (f", SHA-256 {found}" if found else ""))
    if config.reward:
        lines.append(f"- reward: {', '.join(f'`{name}`' for name in config.reward)}")
    return "\n".join(lines)


def _scores(row: dict[str, Any]) -> dict[str, _Score]:
    """(score, low, high) of the avg@k and pass@k of an evaluated row; a score may have no interval."""
    names = [name for name in row if re.fullmatch(r"eval/(avg|pass)@\d+", name)]
    names.sort(key=lambda name: (name.startswith("eval/pass"), int(name.partition("@")[2])))
    return {name.removeprefix("eval/"): (row[name], row.get(f"{name}_low"), row.get(f"{name}_high")) for name in names}


def _cell(score: _Score | None) -> str:
    if score is None:  # rows of metrics may be lost, and the loss accepted
        return "–"
    value, low, high = score
    return f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def _changed(config: Config) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    texts, defaults, found = Config.texts(), Config().model_dump(), {}
    for name, value in config.model_dump().items():
        default = defaults[name]
        if name in _PLACES or value == default:
            continue
        if isinstance(value, dict) and default:  # tiny, vllm, lora
            value = {part: x for part, x in value.items() if x != default[part]}
        found[name] = _shown(value) if name in texts and isinstance(value, str) else value
    return found


def _on_hub(name: str) -> bool:
    return bool(_HUB_NAME.fullmatch(name.partition(":")[0])) and not Path(name).exists()


def _shown(name: str) -> str:
    """A local path without its folders, which are nobody's business; any other text as it is."""
    return Path(name).name if Path(name).is_absolute() or Path(name).exists() else name
