"""Sample, judge and store completions; judge stored ones again."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from datetime import date
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from dgpo import rollout, room
from dgpo.config_rules import check_machine
from dgpo.data.messages import messages_of
from dgpo.distributed import process_group
from dgpo.errors import ConfigError
from dgpo.evaluation import benchmarks
from dgpo.evaluation.benchmarks import Benchmark, Judge
from dgpo.evaluation.folder import EvaluationFolder
from dgpo.evaluation.heldout import decode, encode, token_ids
from dgpo.evaluation.scores import Samples, per_problem, summary
from dgpo.evaluation.settings import EvalConfig, makes_its_own
from dgpo.files import check_place, file_hash, lock
from dgpo.model import loading, tiny
from dgpo.model.policy import Policy, pick_device
from dgpo.progress import Progress
from dgpo.rollout import Sampling
from dgpo.rollout.selfcheck import check_model
from dgpo.run import identity
from dgpo.tasks import task_class
from dgpo.tasks.base import Problem

_PATIENCE = 30 * 86_400  # seconds that a rank waits for the others' completions; their launcher ends it if one dies


def evaluate(config: EvalConfig) -> Path:
    """Run an evaluation to its end, or resume an interrupted one. Returns its folder.

    Under a launcher the ranks share the files of completions, each with its own copy of the policy. Completion i of a
    problem has a seed of its own, made of `seed`, the benchmark, the problem's place and i, however the work is
    divided. Raises ConfigError, DataError and EvaluationError.
    """
    if process_group.world_size() > 1:
        if config.rollout != "transformers" and (spread := config.vllm.tensor_parallel) > 1:
            raise ConfigError(f"vllm.tensor_parallel={spread} must be 1 in an evaluation: each rank has its own engine")
        process_group.init(pick_device(config.device), _PATIENCE)
    check(config)
    on_gpu = pick_device(config.device) == "cuda"
    config = process_group.on_rank0(_resolved, config, on_gpu)
    rollout.check(config)
    if on_gpu:
        room.use_expandable_segments(config)
    embedded = config.rollout == "transformers"
    lm, tokenizer, source = tiny.load_policy(config, weights=embedded)  # vLLM loads its own
    loaded = [benchmarks.load(name, config, tokenizer) for name in config.benchmarks]
    longest = max(_longest(benchmark, lm, tokenizer) for benchmark in loaded)
    policy = Policy(lm, config.temperature, head_dtype=config.head_dtype) if embedded else None
    if policy:
        process_group.on_rank0(check_model, config, policy, tokenizer, longest)
    fitted = process_group.on_all_ranks(room.for_evaluation, config, lm.config, longest) if on_gpu else config
    with Judge(config, loaded) as judge, _shared(config, _made_of(config, source, lm, loaded), loaded) as folder:
        with room.explained(config) if on_gpu else nullcontext(), ExitStack() as held:
            sampler = rollout.make(fitted, policy or SimpleNamespace(lm=lm), tokenizer, source, longest)
            held.enter_context(closing(sampler))
            _fill(folder, loaded, sampler, tokenizer, judge)
        process_group.all_gather_object(None)  # all of them are there
        process_group.on_rank0(_report, folder, config.k)
    return folder.path


def check(config: EvalConfig) -> None:
    """Raise ConfigError for a folder, a machine or benchmarks that an evaluation cannot have: nothing is loaded."""
    check_place(Path(config.eval_dir), f"eval_dir={config.eval_dir!r}")
    check_machine(config)
    for name in config.benchmarks:
        if ":" in name:
            task_class(name)
        elif not makes_its_own(name):
            benchmarks.find(name, config.data_dir)  # a misspelt name should not cost the loading of a model


@contextmanager
def _shared(config: EvalConfig, made_of: identity.MadeOf, loaded: list[Benchmark]) -> Iterator[EvaluationFolder]:
    """The folder as rank 0 creates, or resumes, and locks it; the other ranks write under its lock."""
    with ExitStack() as held:
        made: list[EvaluationFolder] = []
        create = EvaluationFolder.create(config, made_of, loaded)
        process_group.on_rank0(lambda: made.append(held.enter_context(create)))
        yield made[0] if made else EvaluationFolder(config.eval_dir)
        process_group.all_gather_object(None)  # before rank 0 unlocks it


def _resolved(config: EvalConfig, on_gpu: bool) -> EvalConfig:
    """The config with a date, a sampler and a dtype: its own, those of the evaluation it resumes, or those for here."""
    exists = (Path(config.eval_dir) / "manifest.json").exists() and not config.overwrite
    before = EvaluationFolder(config.eval_dir).config if exists else None
    on_vllm = on_gpu and config.model != "tiny" and importlib.util.find_spec("vllm") is not None
    here = {
        "date": lambda: str(date.today()),
        "rollout": lambda: "vllm" if on_vllm else "transformers",
        "dtype": lambda: loading.dtype_of(config) if on_gpu else "float32",
    }
    open_ = [name for name in here if getattr(config, name) in (None, "auto")]
    return config.model_copy(update={n: (before and getattr(before, n)) or here[n]() for n in open_})


def _longest(benchmark: Benchmark, lm, tokenizer) -> int:
    """The most tokens of a prompt and its completion. Raises ConfigError if the model has fewer positions."""
    prompt = max(map(len, encode(tokenizer, [p.prompt for p in benchmark.problems])))
    positions = getattr(lm.config, "max_position_embeddings", None)
    if positions and prompt + benchmark.limit > positions:
        name = benchmarks.limit_setting(benchmark.name)
        raise ConfigError(
            f"{name}={benchmark.limit} and the longest prompt of {benchmark.name}, {prompt} tokens, must add up to at "
            f"most the model's {positions} positions"
            + (f": {name}={positions - prompt} fits" if prompt < positions else "")
        )
    return prompt + benchmark.limit


def rescore(path: str | Path) -> Path:
    """Judge every stored completion again with the present verifier. Returns the folder.

    Raises EvaluationError for an incomplete folder, and if a benchmark's file has changed, since the completions then
    answer other problems; ConfigError when another process has the folder.
    """
    folder = EvaluationFolder(path)
    _check_revisions(folder)
    for name in folder.benchmarks:
        folder.samples(name)  # all there, before anything is changed
    with lock(folder.path, str(path)) as folder.lock, Judge(folder.config, _own_tasks(folder)) as judge:
        for name in folder.benchmarks:
            problems = _stored(folder, name)
            for chunk, places in folder.chunks(name):
                columns = folder.read(name, chunk, places)
                asked = [problems[i] for i in columns["index"]]
                columns["verdict"], columns["answer"] = judge(name, asked, columns["text"], columns["tokens"])
                folder.write(name, chunk, columns)
        _report(folder, folder.config.k)
    return folder.path


def read(path: str | Path) -> Iterator[Samples]:
    """The judged completions of each benchmark of a folder. Raises EvaluationError."""
    folder = EvaluationFolder(path)
    return (folder.samples(name) for name in folder.benchmarks)


def _fill(folder: EvaluationFolder, loaded: list[Benchmark], sampler, tokenizer, judge: Judge) -> None:
    config = folder.config
    todo = [(b, chunk, places) for b in loaded for chunk, places in folder.chunks(b.name)]
    todo = todo[process_group.rank() :: process_group.world_size()]  # long benchmarks are spread over all ranks
    total = sum(len(places) for *_, places in todo)
    there = sum(len(places) for _, chunk, places in todo if chunk.exists())
    with Progress(there, total, "completion") as progress:
        for benchmark, chunk, places in todo:
            if chunk.exists():
                folder.read(benchmark.name, chunk, places, ("verdict",))  # its hashes and its length
                continue
            problems = [benchmark.problems[i] for i, _ in places]
            seeds = [folder.seed(benchmark.name, i, sample) for i, sample in places]
            sampling = Sampling(benchmark.limit, config.temperature, config.top_p)
            batch = sampler.generate(encode(tokenizer, [p.prompt for p in problems]), seeds, sampling)
            texts, tokens = decode(tokenizer, batch), token_ids(batch)
            verdicts, answers = judge(benchmark.name, problems, texts, tokens)
            columns = {
                "index": [i for i, _ in places],
                "sample": [sample for _, sample in places],
                "seed": seeds,
                "text": texts,
                "tokens": tokens,
                "length": batch.mask.sum(1).tolist(),
                "finished": batch.finished.tolist(),
                "verdict": verdicts,
                "answer": answers,
            }
            folder.write(benchmark.name, chunk, columns)
            there += len(places)
            progress.update(there, right=verdicts.count("correct") / len(verdicts))


def _own_tasks(folder: EvaluationFolder) -> list[Benchmark]:
    """The benchmarks module:Class of a folder, made again. Raises EvaluationError if their problems have changed."""
    names = [name for name in folder.benchmarks if ":" in name]
    tokenizer = tiny.load_policy(folder.config, weights=False)[1] if names else None
    loaded = [benchmarks.load(name, folder.config, tokenizer) for name in names]
    made_of = folder.identity.made_of
    folder.check(made_of | {"data": made_of["data"] | {b.name: b.sha256 for b in loaded}}, str(folder.path))
    return loaded


def _stored(folder: EvaluationFolder, name: str) -> list[Problem]:
    """The problems of a benchmark as the folder keeps them, with their rows where rewards judge them."""
    frame = folder.problems(name)
    rows = map(json.loads, frame["row"]) if "row" in frame else repeat({})
    return [
        Problem(id, prompt, answer, row, messages_of(row.get(folder.config.problem_field)))
        for id, prompt, answer, row in zip(frame["id"], frame["prompt"], frame["answer"], rows, strict=False)
    ]


def _made_of(config: EvalConfig, source: str | Path, lm, loaded: list[Benchmark]) -> identity.MadeOf:
    return {
        "data": {b.name: b.sha256 for b in loaded},
        "model": identity.of_model(source, lm),
        "prompts": {b.name: identity.of_problems(b.problems) for b in loaded},
        "code": identity.of_code() | identity.of_modules([*config.benchmarks, *config.reward]),
        "parameters": identity.of_parameters(lm),
    }


def _check_revisions(folder: EvaluationFolder) -> None:
    """Raise EvaluationError if a benchmark's file has changed."""
    now = dict(folder.identity.made_of["data"])
    for name in folder.benchmarks:
        with suppress(ConfigError):  # the file is gone: the folder has the references
            now |= {name: file_hash(benchmarks.find(name, folder.config.data_dir))} if not makes_its_own(name) else {}
    folder.check(folder.identity.made_of | {"data": now}, str(folder.path))


def _report(folder: EvaluationFolder, ks: list[int]) -> None:
    everything = [folder.samples(name) for name in folder.benchmarks]
    frames = [per_problem(samples, ks).assign(benchmark=samples.benchmark) for samples in everything]
    folder.write_results([summary(samples, ks) for samples in everything], pd.concat(frames))
