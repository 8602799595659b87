"""The loop. A step is

    sample n completions of each prompt  →  reward  →  advantage  →  old log-probabilities by the trainer itself
    →  epochs × updates optimizer steps on − A · sg(w_log) · log π  →  weights to the sampler  →  report

`train(config)` runs it in `config.run_dir` and returns that folder. All randomness of a step is a function of
(seed, step, place in the stream of problems), so a resumed run equals an undisturbed one to the last bit on one CPU
process.
"""

import copy
import math
from contextlib import closing
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgpo import rollout, tasks
from dgpo.batch import Rollout, Scored, Weighted, concatenate
from dgpo.collect import Collector, Metrics
from dgpo.config import Config
from dgpo.config_rules import check_machine
from dgpo.distributed import process_group
from dgpo.engine import Engine, NonFiniteError
from dgpo.errors import DIVERGED
from dgpo.evaluation.heldout import evaluate
from dgpo.memory import out_of_memory
from dgpo.model import trained
from dgpo.model.policy import pick_device
from dgpo.objective import (
    adapted_kl_coef,
    group_advantages,
    importance_weights,
    kl_penalty,
    loss_weights,
    objective,
    overlong_penalty,
)
from dgpo.progress import Progress, tell
from dgpo.rollout import Sampling, mismatch
from dgpo.rollout.selfcheck import check_model
from dgpo.run import hub, identity, summary
from dgpo.run.folder import RunFolder
from dgpo.run.telemetry import PhaseTimer, TokenStats
from dgpo.seeds import fold_in

_SHOWN = 8  # held-out problems whose first completion is kept at every evaluation


class TrainingDiverged(process_group.CommonError):
    """A loss, a gradient or a metric became NaN or infinite; a checkpoint before it is intact."""

    exit_code = DIVERGED


def train(config: Config) -> Path:
    """Train to the last step, from the start or the newest checkpoint. Returns the run folder."""
    trainer = Trainer(config)
    with closing(trainer.run), closing(trainer.task), closing(trainer.sampler):
        start = trainer.restore()
        if start == 0:
            trainer.report(0, {})
        with Progress(start, config.steps) as progress:
            for step in range(start + 1, config.steps + 1):
                with process_group.error_scope(f"step {step}"):
                    torch.manual_seed(fold_in(config.seed, "torch", step))
                    batch, rewards, rolled = trainer.collector.collect()
                    if step < config.steps:
                        trainer.collector.begin()
                    batch, scored = trainer.score(batch, rewards)
                    mismatch.guard(step, scored, config.max_mismatch)
                    updated = trainer.update(step, batch) | trainer.adapt_kl(scored, len(batch))
                    trainer.load_sampler()
                    trainer.report(step, rolled | scored | updated)
                progress.update(step, reward=rolled["reward/mean"], **{"held-out": trainer.heldout})
        return trainer.finish()


class Trainer:
    """The parts of the loop and what they share; `train` is their order. Metrics are returned, `report` writes them."""

    def __init__(self, config: Config):
        self.config, self.method = config, config.make_method()
        check_machine(config)
        rollout.check(config)
        process_group.init(pick_device(config.device), config.timeout)
        process_group.check_settings(config)
        process_group.on_rank0(hub.check, config)
        if pick_device(config.device) == "cuda":
            from dgpo import room
            from dgpo.rollout import owners

            room.use_expandable_segments(config)
            process_group.on_all_ranks(owners.device, config)
            process_group.on_all_ranks(room.check, config)
        self.run = RunFolder(config)
        self.config = config = self.run.config
        self.seconds = PhaseTimer(partial(out_of_memory, config))
        with self.seconds.phase("setup"):
            longest = config.max_prompt_tokens + config.max_new_tokens
            self.policy, self.tokenizer, self.source = process_group.on_all_ranks(trained.make, config)
            self.task = process_group.on_all_ranks(tasks.make, config, self.tokenizer)
            for name, count in self.task.notes.items():
                if count and process_group.rank() == 0:
                    tell(f"{config.data}: {count} {name.replace('_', ' ')}")
            process_group.on_rank0(check_model, config, self.policy, self.tokenizer, longest)
            self.reference = None
            if config.log_reference_kl or config.kl_coef:
                self.reference = copy.deepcopy(self.policy).requires_grad_(False)
            sampled = self.policy
            embedded = config.rollout == "transformers" and not config.asynchronous
            if config.zero_stage == 3 and embedded:  # of its weights a rank will have a part
                sampled = copy.deepcopy(self.policy).requires_grad_(False)
            self.engine = Engine(self.policy, config)
            self.reference = self.reference and self.engine.shard(self.reference)
            self.engine.park()
            self.sampler = rollout.make(config, sampled, self.tokenizer, self.source, longest)
        self.collector = Collector(config, self.tokenizer, self.task, self.sampler, self.seconds)
        self.kl_coef = config.kl_coef  # of the next updates
        self.heldout: float | None = None  # the latest avg@k

    def restore(self) -> int:
        """Open the run folder and load its newest checkpoint, if any. Returns the number of steps already made."""
        state = self.run.open(partial(identity.of_run, self.config, self.method, self.source, self.policy, self.task))
        if state is None:
            return 0
        if state["ranks"] != process_group.world_size() and process_group.rank() == 0:
            tell(
                f"{self.run.path}: ranks={state['ranks']} wrote step {state['step']}, {process_group.world_size()} "
                "continue: the same weights, optimizer, batches and seeds, but from here on sums round differently"
            )
        if state["step"] > self.config.steps and process_group.rank() == 0:
            tell(
                f"{self.run.path} has made {state['step']} steps already: with steps={self.config.steps} there is "
                "nothing to do"
            )
        folder = self.run.checkpoint(state["step"])
        self.engine.load(folder, state["updates"])
        self.load_sampler()
        self.kl_coef = state.get("kl_coef", self.config.kl_coef)
        ahead = [Rollout(**load_file(part)) for part in sorted(folder.glob("ahead_*"))]  # one of each sampler
        self.collector.restore(state["position"], concatenate(ahead) if ahead else None)
        return state["step"]

    def load_sampler(self) -> None:
        """Give the sampler the policy's weights; an asynchronous one finishes sampling first."""
        with self.seconds.phase("load"):
            self.engine.park()
            self.sampler.load(self.engine.named_full_parameters())

    def score(self, batch: Rollout, rewards: Tensor) -> tuple[Scored, Metrics]:
        """Advantages, and log-probabilities by the trainer's own forward pass, compared with the sampler's."""
        config = self.config
        if not len(batch):
            nothing = batch.rollout_logp
            scored = batch.scored(advantage=nothing[:, :1], old_logp=nothing, entropy=nothing)
            return scored, dict.fromkeys(("entropy", *(f"mismatch/{name}" for name in mismatch.MEASURES)))
        penalty = torch.zeros_like(rewards)
        if config.overlong_window:
            length = batch.mask.sum(1).view_as(rewards)
            penalty = overlong_penalty(length, config.max_new_tokens, config.overlong_window)
            rewards = rewards + penalty
        advantage = group_advantages(rewards, config.advantage).view(-1, 1)
        with self.seconds.phase("old_logp"):
            logp, entropy = self.engine.logp(batch)
            reference = self.reference and self.engine.logp(batch, self.reference)[0]
        live = batch.mask
        rollout_logp, lost = mismatch.fill(batch.rollout_logp, logp, live)
        if lost:  # by an engine that overflowed, say: not worth the run, but worth a number
            batch = batch.replace(rollout_logp=rollout_logp)
        distance = mismatch.compare(logp, batch.rollout_logp, live)
        factor = importance_weights(
            logp,
            batch.rollout_logp,
            live,
            config.importance_correction,
            config.importance_cap,
            config.importance_bounds,
        )
        scored = batch.scored(
            advantage=advantage,
            old_logp=batch.rollout_logp if config.asynchronous else logp,
            entropy=entropy,
            ref_logp=reference,
            importance_weight=factor,
        )
        if config.mask_truncated:
            scored = scored.replace(mask=live & batch.finished[:, None])
        metrics: Metrics = {"entropy": float(entropy[live].mean())}
        if config.overlong_window:
            metrics["reward/overlong"] = float(penalty.mean())
        metrics |= {f"mismatch/{k}": v for k, v in distance.items()}
        if lost:
            metrics["mismatch/nan"] = lost
        if factor is not None:
            metrics["importance_weight/mean"] = float(factor[live].mean())
        if reference is not None:
            metrics["kl/reference"] = float(kl_penalty(logp, reference, "k3")[live].mean())
        return scored, metrics

    def update(self, step: int, batch: Scored) -> Metrics:
        """`epochs` × `num_minibatches` optimizer steps. Raises TrainingDiverged instead of applying a NaN."""
        config = self.config
        generator = torch.Generator().manual_seed(fold_in(config.seed, "update", step))
        telemetry = TokenStats(self.method, config.token_records, config.epochs * int(batch.mask.sum()), generator)
        reports = []
        with self.seconds.phase("update"):
            for i, mini in enumerate(batch.minibatches(config.num_minibatches, config.epochs, generator)):
                mini = mini.weighted(loss_weights(mini.mask, config.loss_aggregation, config.max_new_tokens))
                if "batch" in self.method.needs:
                    logp, entropy = self.engine.logp(mini)
                    given = (logp, mini.old_logp, mini.advantage, mini.mask, mini.entropy, entropy)
                    w_log, penalty = self.method.coefficients(*given)
                    mini = mini.replace(w_log=w_log, penalty=penalty)
                try:
                    report = self.engine.update(mini, partial(self._loss, i, telemetry))
                    reports += [report] if report else []  # none where float16 overflowed
                except NonFiniteError as error:
                    raise self._diverged(step, i, mini, error) from error
        if config.token_records:
            self.run.write_tokens(step, telemetry.records(step))
        metrics = {"updates": len(reports), **telemetry.metrics()}
        norms = [r["grad_norm"] for r in reports]
        metrics["grad_norm/mean"] = sum(norms) / len(norms) if norms else None
        metrics["grad_norm/max"] = max(norms, default=None)
        metrics["lr"] = reports[-1]["lr"] if reports else None
        return metrics

    def adapt_kl(self, scored: Metrics, completions: int) -> Metrics:
        """Move kl_coef towards kl_target after a step's updates; the metric is the one that they used."""
        config, used, kl = self.config, self.kl_coef, scored.get("kl/reference")
        if config.kl_target is None:
            return {}
        if kl is not None:
            self.kl_coef = adapted_kl_coef(used, kl, config.kl_target, completions / config.kl_horizon)
        return {"kl/coef": used}

    def report(self, step: int, metrics: Metrics) -> None:
        """Evaluate when it is due, write the step's row, checkpoint when it is due."""
        config, last, result = self.config, step == self.config.steps, None
        if step == 0 or last or (config.eval_every and step % config.eval_every == 0):
            with self.seconds.phase("evaluate"):
                sampling = Sampling(config.max_new_tokens, config.eval_temperature)
                result = evaluate(
                    self.sampler, self.tokenizer, self.task, config.eval_samples, sampling, config.right_above
                )
            metrics = metrics | result.metrics()
            if config.reward or ":" in config.task:  # whose rewards need not be 0 and 1
                metrics["eval/reward"] = float(result.rewards.mean())
            self.heldout = metrics[f"eval/avg@{config.eval_samples}"]
        if wild := [k for k, v in metrics.items() if v is not None and not math.isfinite(v)]:
            newest = self.run.checkpoints()[-1:]
            raise TrainingDiverged(
                f"step {step} of {self.method}: {', '.join(wild)} is NaN or infinite after its updates; "
                f"newest checkpoint: {newest[0] if newest else 'none yet'}"
            )
        if result:
            self.run.append_completions(result.examples(step, _SHOWN))
        self.run.append_metrics({"step": step, **metrics, **self.seconds.take()})
        if step and (last or (config.checkpoint_every and step % config.checkpoint_every == 0)):
            state = {
                "step": step,
                "position": self.collector.position,
                "kl_coef": self.kl_coef,
                "updates": self.engine.updates,
                "ranks": process_group.world_size(),
                "heldout": metrics.get(f"eval/avg@{config.eval_samples}"),
            }
            with self.seconds.phase("checkpoint"):  # counted in the next step's row
                self.run.save_checkpoint(state, self._save)

    def finish(self) -> Path:
        """Write the trained policy and the summary; push the policy where `hub` says so."""
        weights = self.engine.full_state_dict()
        found = summary.summarise(self.run, self.config, self.method, self.task.notes)
        self.run.save_policy(partial(self._save_policy, weights, found))
        self.run.write_summary(found)
        process_group.on_rank0(hub.push, self.config, self.run.path / "policy")
        return self.run.path

    def _ahead_file(self) -> str:
        return f"ahead_{process_group.rank():05d}.safetensors"

    def _save(self, folder: Path) -> None:
        self.engine.save(folder)
        if ahead := self.sampler.ahead():
            save_file(ahead.tensors(), folder / self._ahead_file())

    def _loss(self, update: int, telemetry: TokenStats, micro: Weighted) -> Tensor:
        """The loss of one micro-batch of a step's `update`-th optimizer step."""
        config, on_device = self.config, micro.to(self.policy.device)
        with_entropy = config.entropy_coef != 0 or "entropy_now" in self.method.needs
        logp, entropy = self.engine(on_device, with_entropy=with_entropy)
        terms = {"kl": config.kl, "kl_coef": self.kl_coef, "entropy_coef": config.entropy_coef}
        loss, w_log = objective(logp, entropy, on_device, self.method, **terms)
        telemetry.add(update, micro, logp, w_log)
        return loss

    def _diverged(self, step: int, update: int, batch: Weighted, error: NonFiniteError) -> TrainingDiverged:
        path = self.run.save_failed(step, batch.tensors())
        newest = self.run.checkpoints()[-1:]
        return TrainingDiverged(
            f"step {step}, update {update} of {self.method}: {error}; the update was not applied. "
            f"Its batch is in {path}; newest checkpoint: {newest[0] if newest else 'none yet'}"
        )

    def _save_policy(self, weights: dict[str, Tensor], found: dict, folder: Path) -> None:
        trained.save(self.policy, self.tokenizer, weights, folder)
        hub.write_card(folder, self.config, found, self.run.identity.made_of)
