"""What a run folder accepts on resume, and that one run at a time writes to it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import running
import torch
from folders import MADE_OF, opened
from running import rows
from transformers import Qwen2ForCausalLM

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import files, trainer
from dgpo.config import ConfigError
from dgpo.config_parts import TinyPolicy
from dgpo.files import FolderLost
from dgpo.model import tiny
from dgpo.run import checkpoint as checkpoints
from dgpo.run.checkpoint import CheckpointError
from dgpo.run.folder import RunFolder
from dgpo.run.identity import Identity
from dgpo.tasks import chain


class TestRuns:
    def test_a_run_of_before_is_refused_and_a_spoilt_record_too(self, run):
        whole = json.loads((run / "identity.json").read_text())
        no_steps, no_kind = (json.dumps(whole | {"accepted": [entry]}) for entry in ({"what": "metrics"}, {"step": 1}))
        for content, said in ((b"5", ""), (b"\xff", ""), (b"{}", "id: Field required; overwrite=True starts afresh"),
                              (no_steps.encode(), "accepted: .* the list of steps"),
                              (no_kind.encode(), "accepted: .* lacks what was accepted")):  # fmt: skip
            (run / "identity.json").write_bytes(content)
            with pytest.raises(ConfigError, match=rf"identity\.json is damaged: {said}"):
                opened(run)
        (run / "identity.json").unlink()
        with pytest.raises(ConfigError, match=r"has no identity\.json.*It cannot be resumed: overwrite=True starts"):
            opened(run)

    def test_a_kill_while_it_is_overwritten_leaves_a_folder_that_can_be_used(self, run):
        for path in run.iterdir():
            if path.name != "identity.json":
                files.remove(path)
        before = Identity.read(run / "identity.json").id
        made = opened(run)
        made.close()
        assert made.identity.id != before

    def test_a_checkpoint_under_another_name_is_refused_and_nothing_is_lost(self, run):
        (run / "checkpoints" / "step_000004").rename(run / "checkpoints" / "step_000009")
        with pytest.raises(CheckpointError, match=r"step_000009 is the checkpoint of step 4: .* name it step_000004"):
            opened(run, steps=12)
        assert (run / "policy").exists()

    def test_a_run_that_has_ended_and_lost_its_checkpoints_keeps_its_policy(self, run):
        shutil.rmtree(run / "checkpoints")
        with pytest.raises(CheckpointError, match="has finished and has no checkpoint to continue from; overwrite"):
            opened(run, steps=8)
        assert (run / "policy" / "model.safetensors").exists()
        assert len(rows(run)) == 5

    @pytest.mark.parametrize(
        ("own", "said"),
        [
            ({"id": "f00"}, "id: '.*' → 'f00'"),
            ({"method": "grpo(eps_low=0.2)"}, r"method: 'dgpo\(.*\)' → 'grpo\(eps_low=0\.2\)'"),
            ({"seed": 7}, "seed: 0 → 7"),
        ],
    )
    def test_a_checkpoint_of_another_run_is_refused(self, run, own, said):
        folder = run / "checkpoints" / "step_000004"
        state = checkpoints.load_state(folder)
        del state["sha256"]
        state["run"] |= own
        state["sha256"] = checkpoints._digest_of(state)
        (folder / "state.json").write_text(json.dumps(state))
        with pytest.raises(CheckpointError, match=rf"step_000004 is a checkpoint of another run \({said}\): remove it"):
            opened(run)

    @pytest.mark.parametrize("hidden", [16, 64])
    def test_a_narrower_or_wider_model_is_refused_before_anything_is_filled(self, recorded, tmp_path, hidden):
        shape = tiny.shape(TinyPolicy(**running.SMALL["tiny"] | {"hidden": hidden}))
        Qwen2ForCausalLM(shape).save_pretrained(tmp_path / "model")
        chain.tokenizer().save_pretrained(tmp_path / "model")
        settings = {**running.SMALL, "run_dir": str(tmp_path / "run"), "model": str(tmp_path / "model")}
        made = trainer.Trainer(configs.make(settings))
        before = {name: weight.clone() for name, weight in made.engine.named_full_parameters()}
        said = rf"rank_00000\.safetensors is of a model of other shapes .* lm\.\S+ \[.*32\] → \[.*{hidden}\].* more"
        with pytest.raises(CheckpointError, match=said):
            made.engine.load(recorded[0] / "checkpoints" / "step_000004", 16)
        assert all(torch.equal(weight, before[name]) for name, weight in made.engine.named_full_parameters())

    def test_another_start_policy_is_named_and_accepted_deliberately(self, run, checkpoint, tmp_path, capsys):
        other = shutil.copytree(checkpoint, tmp_path / "other")
        words = [f"{k}={json.dumps(v)}" for k, v in running.SMALL.items() if k != "steps"]
        words = ["train", *words, f"run_dir={run}", "resume=true", f"model={other}"]
        assert cli.main([*words, "steps=4"]) == 0  # the same policy, elsewhere
        lm = Qwen2ForCausalLM.from_pretrained(other)
        with torch.no_grad():
            lm.model.norm.weight.mul_(1.5)
        lm.save_pretrained(other)
        capsys.readouterr()
        assert cli.main([*words, "steps=5"]) == 2
        said = capsys.readouterr().err
        assert "model: model.safetensors changed since the start (sha256 " in said
        assert cli.main([*words, "steps=5", "accept_changes=[model]"]) == 0
        (entry,) = Identity.read(run / "identity.json").accepted
        assert (entry["step"], entry["what"], entry["item"]) == (4, "model", "model.safetensors")


class TestOneRunAFolder:
    WRITERS = {
        "metrics": lambda run: run.append_metrics({"step": 5}),
        "completions": lambda run: run.append_completions([{"step": 5}]),
        "tokens": lambda run: run.write_tokens(5, pd.DataFrame()),
        "checkpoint": lambda run: run.save_checkpoint({"step": 5}, lambda folder: None),
        "failed": lambda run: run.save_failed(5, {}),
        "policy": lambda run: run.save_policy(lambda folder: None),
        "summary": lambda run: run.write_summary({}),
    }

    @pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
    def test_a_run_whose_folder_was_made_anew_writes_nothing_more(self, run, write):
        old = opened(run)
        shutil.rmtree(run)
        new = RunFolder(configs.make({**running.SMALL, "run_dir": str(run)}))
        new.open(lambda: MADE_OF)
        new.append_metrics({"step": 0})
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        with pytest.raises(FolderLost, match=r"^run_dir='.*/run' was moved, removed or replaced while"):
            write(old)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        new.append_metrics({"step": 1})
        old.close()
        new.append_metrics({"step": 2})
        new.close()

    @pytest.mark.parametrize("lose", [shutil.rmtree, lambda run: run.rename(run.with_name("moved"))])
    def test_a_folder_that_is_gone_is_not_made_again(self, run, lose):
        old = opened(run)
        lose(run)
        with pytest.raises(FolderLost):
            old.append_metrics({"step": 5})
        assert not run.exists()

    def test_a_folder_whose_lock_file_was_removed_is_not_written_to(self, run):
        old = opened(run)
        (run / ".lock").unlink()
        new = opened(run)  # nothing keeps it from starting
        with pytest.raises(FolderLost):
            old.append_metrics({"step": 5})
        new.append_metrics({"step": 5})

    def test_a_checkpoint_in_the_making_does_not_touch_that_of_the_new_run(self, run):
        old, theirs = opened(run), run / "checkpoints" / ".step_000005.partial" / "rank_00000.safetensors"

        def write(folder):
            shutil.rmtree(run)
            new = RunFolder(configs.make({**running.SMALL, "run_dir": str(run)}))
            new.open(lambda: MADE_OF)
            theirs.parent.mkdir(parents=True)
            theirs.write_bytes(b"theirs")

        with pytest.raises(FolderLost):
            old.save_checkpoint({"step": 5}, write)
        assert theirs.read_bytes() == b"theirs"
        assert not list(run.glob("checkpoints/step_*"))

    def test_the_command_line_says_so_in_one_line(self, small, monkeypatch, capsys):
        update = trainer.Trainer.update

        def lost(self, step, batch):
            shutil.rmtree(small["run_dir"])
            return update(self, step, batch)

        monkeypatch.setattr(trainer.Trainer, "update", lost)
        assert cli.main(["train", *(f"{k}={json.dumps(v)}" for k, v in small.items())]) == 3
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert "the process stops and writes nothing more there" in line
        assert not Path(small["run_dir"]).exists()
