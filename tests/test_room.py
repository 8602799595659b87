"""GPU memory before the first step: what is refused, with which numbers and ways out; the share of an evaluation."""

import os

import pytest
import torch
import vllm_stub
from transformers import Qwen2Config

from dgpo import config as configs
from dgpo import plan, room, trainer
from dgpo.config import ConfigError
from dgpo.evaluation import run as evaluation
from dgpo.evaluation import settings as evaluations
from dgpo.memory import OutOfMemory
from dgpo.model import loading
from dgpo.rollout import vllm

GB = 1e9
RECIPE = {"data": "problems.jsonl"}


@pytest.fixture
def card(monkeypatch):
    def card(free, total=85.2):
        monkeypatch.setattr(room, "free", lambda: (int(free * GB), int(total * GB)))

    return card


class TestTraining:
    def test_the_recipe_on_one_card_is_refused_with_its_numbers_and_what_fits(self, card):
        """Its weights fit at the start; Adam's moments come with the first step, and vLLM then wants its share back."""
        card(84)
        with pytest.raises(ConfigError) as refused:
            room.check(configs.load("r1-distill-1.5b", **RECIPE))
        said = str(refused.value)
        assert "84.0 of 85.2 GB are free" in said
        assert "optimizer 21.3" in said
        assert "force=true starts it anyway" in said
        assert "\n" not in said

    def test_what_fits_and_what_is_forced_goes_on(self, card):
        card(140, 141)
        room.check(configs.load("r1-distill-1.5b", **RECIPE))
        card(10)
        room.check(configs.load("r1-distill-1.5b", **RECIPE, force=True))

    def test_memory_that_others_hold_counts(self, card):
        config = configs.load("r1-distill-1.5b", **RECIPE)
        card(140, 141)
        room.check(config)
        card(60, 141)
        with pytest.raises(ConfigError, match=r"60\.0 of 141\.0 GB are free"):
            room.check(config)

    def test_a_sampler_that_never_sleeps_counts_in_every_phase(self, card):
        """In turn the run fits beside the updates; in another process the sampler keeps its share."""
        settings = {**RECIPE, "importance_correction": "none", "vllm": {"gpu_memory": 0.5}}
        card(84)
        room.check(configs.load("r1-distill-1.5b", **settings, offload="rollout"))
        with pytest.raises(ConfigError, match=r"plan: the optimizer step takes .*KV cache 39\.0"):
            room.check(configs.load("r1-distill-1.5b", **settings, asynchronous=True))

    def test_one_with_a_gpu_of_its_own_counts_there_alone(self, card):
        settings = {**RECIPE, "importance_correction": "none", "asynchronous": True, "offload": "optimizer"}
        card(70)  # of the rank's; the sampler's is empty
        room.check(configs.load("r1-distill-1.5b", **settings, sampler_ranks=1, vllm={"gpu_memory": 0.9}))
        with pytest.raises(ConfigError, match=r"plan: the sampling alone takes 87\.3 GB .*85\.2 of 85\.2 GB are free"):
            room.check(configs.load("r1-distill-1.5b", **settings, sampler_ranks=1, vllm={"gpu_memory": 0.99}))

    def test_a_model_that_plan_cannot_count_is_not_checked(self, card, monkeypatch, capsys):
        card(1)
        monkeypatch.setattr(plan, "predict", lambda *_: 1 / 0)
        room.check(configs.load("tiny"))
        assert "plan has no prediction" in "".join(capsys.readouterr())

    def test_a_training_asks_before_it_reads_the_model(self, card, monkeypatch, tmp_path):
        card(0.5)
        monkeypatch.setattr(trainer, "pick_device", lambda _: "cuda")
        monkeypatch.setattr(trainer.process_group, "init", lambda *_: None)
        monkeypatch.setattr(room, "use_expandable_segments", lambda _: None)
        monkeypatch.setattr(trainer.trained, "make", lambda _: pytest.fail("the model is read"))
        with pytest.raises(ConfigError, match=r"0\.5 of 85\.2 GB are free"):
            trainer.Trainer(configs.load("tiny", run_dir=str(tmp_path / "run")))
        assert not (tmp_path / "run").exists()


class TestSegments:
    @pytest.fixture(autouse=True)
    def _unset(self, monkeypatch):
        for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize(
        ("settings", "own", "wanted"),
        [
            ({}, {}, "expandable_segments:True"),
            ({"vllm": {"tensor_parallel": 2}}, {}, None),
            ({}, {"PYTORCH_ALLOC_CONF": "max_split_size_mb:128"}, None),
            ({}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}, "backend:cudaMallocAsync"),
        ],
    )
    def test_they_are_set_where_that_is_safe_and_nobody_chose(self, monkeypatch, settings, own, wanted):
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(os, "environ", dict(os.environ))
        room.use_expandable_segments(configs.load("tiny", **settings))
        assert os.environ.get("PYTORCH_CUDA_ALLOC_CONF") == wanted


class TestEvaluation:
    QWEN7 = Qwen2Config(
        vocab_size=152_064, hidden_size=3_584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, tie_word_embeddings=False,
    )  # fmt: skip

    def config(self, **settings):
        return evaluations.load(model="some/7b", benchmarks=["aime24"], dtype="bfloat16", **settings)

    def test_vllm_takes_what_is_free(self, card):
        card(84)
        fitted = room.for_evaluation(self.config(rollout="vllm"), self.QWEN7, 33_000)
        assert fitted.vllm.gpu_memory == 0.92
        card(45)
        assert room.for_evaluation(self.config(rollout="vllm"), self.QWEN7, 33_000).vllm.gpu_memory == 0.51

    def test_a_share_that_is_given_stays_or_is_refused(self, card):
        given = self.config(rollout="vllm", vllm={"gpu_memory": 0.5})
        card(84)
        assert room.for_evaluation(given, self.QWEN7, 33_000).vllm.gpu_memory == 0.5
        card(30)
        with pytest.raises(ConfigError, match=r"vllm\.gpu_memory=0\.5 is 42\.6 GB of this GPU, and 30\.0 of 85\.2"):
            room.for_evaluation(given, self.QWEN7, 33_000)

    def test_a_model_without_room_for_a_sequence_is_refused_unless_forced(self, card):
        card(16, 17)
        with pytest.raises(ConfigError, match=r"takes 15\.2 GB, and a sequence of 33000 tokens 1\.9 GB of KV cache"):
            room.for_evaluation(self.config(rollout="vllm"), self.QWEN7, 33_000)
        room.for_evaluation(self.config(rollout="vllm", force=True), self.QWEN7, 33_000)

    def test_the_embedded_sampler_gets_the_rows_that_fit(self, card, capsys):
        card(65)  # beside the weights
        fitted = room.for_evaluation(self.config(rollout="transformers"), self.QWEN7, 33_000)
        row = 2 * 512 * 28 * 2 * 33_000 + 32 * 152_064
        assert fitted.generation_batch_size == int(62e9 / row) < 256
        assert "samples" in "".join(capsys.readouterr())
        short = room.for_evaluation(self.config(rollout="transformers"), self.QWEN7, 100)
        assert short.generation_batch_size == 256
        card(4)
        with pytest.raises(ConfigError, match="or rollout=vllm"):
            room.for_evaluation(self.config(rollout="transformers"), self.QWEN7, 33_000)

    @pytest.fixture
    def gpu(self, monkeypatch, card):
        """A machine with a GPU and the strict stand-in for vLLM."""
        vllm_stub.install(monkeypatch)
        monkeypatch.setattr(vllm, "_version", lambda: "0.32.0")
        monkeypatch.setattr(room, "use_expandable_segments", lambda _: None)
        card(84)

    def settings(self, checkpoint, tmp_path, **others):
        common = {"benchmarks": ["chain"], "n": 2, "generated_problems": 4, "eval_dir": str(tmp_path / "eval")}
        return evaluations.load(**{"model": str(checkpoint), **common, **others})

    @pytest.mark.usefixtures("gpu")
    def test_beside_vllm_no_second_copy_of_the_model_is_made(self, checkpoint, tmp_path, monkeypatch):
        monkeypatch.setattr("dgpo.model.tiny.load_lm", lambda *_: pytest.fail("a second copy"))
        folder = evaluation.evaluate(self.settings(checkpoint, tmp_path))
        kept = evaluation.EvaluationFolder(folder).config
        assert (kept.rollout, kept.dtype, kept.vllm.gpu_memory) == ("vllm", "float32", None)
        assert vllm_stub.LLM.last.arguments["gpu_memory_utilization"] == 0.92
        assert vllm_stub.LLM.last.calls[-1] == "shutdown"
        assert not vllm_stub.LLM.last.arguments["enable_sleep_mode"]
        made_of = evaluation.EvaluationFolder(folder).identity.made_of
        assert made_of["parameters"] == evaluation.identity.of_parameters(loading.load_lm(checkpoint)[0])

    @pytest.mark.usefixtures("gpu")
    def test_out_of_memory_is_a_line_with_the_settings_that_help(self, checkpoint, tmp_path, monkeypatch):
        def full(*_, **__):
            raise RuntimeError("CUDA Error: out of memory at /workspace/csrc/cumem_allocator.cpp:62")

        monkeypatch.setattr(vllm_stub.LLM, "generate", full)
        with pytest.raises(OutOfMemory, match=r"cumem_allocator.*max_new_tokens, generation_batch_size=256"):
            evaluation.evaluate(self.settings(checkpoint, tmp_path))

    @pytest.mark.usefixtures("gpu")
    def test_weights_that_are_nan_are_named_though_vllm_loads_them(self, checkpoint, tmp_path):
        lm, tokenizer = loading.load_lm(checkpoint)
        lm.model.norm.weight.data[0] = torch.nan
        lm.save_pretrained(tmp_path / "nan")
        tokenizer.save_pretrained(tmp_path / "nan")
        with pytest.raises(ConfigError, match=r"NaN or infinite: model\.norm\.weight"):
            evaluation.evaluate(self.settings(tmp_path / "nan", tmp_path))

    def test_on_a_cpu_nothing_changes_and_a_resumed_evaluation_keeps_its_sampler(self, checkpoint, tmp_path):
        config = self.settings(checkpoint, tmp_path)
        assert (config.rollout, config.dtype) == ("auto", "auto")
        resolved = evaluation._resolved(config, on_gpu=False)
        assert (resolved.rollout, resolved.dtype) == ("transformers", "float32")
        folder = evaluation.evaluate(config)
        assert evaluation._resolved(config, on_gpu=True).rollout == "transformers"
        assert evaluation.evaluate(self.settings(checkpoint, tmp_path, n=3)) == folder

    def test_a_checkpoint_has_its_own_dtype(self, checkpoint, tmp_path):
        lm, tokenizer = loading.load_lm(checkpoint)
        lm.to(torch.bfloat16).save_pretrained(tmp_path / "half")
        tokenizer.save_pretrained(tmp_path / "half")
        assert evaluation._resolved(self.settings(tmp_path / "half", tmp_path), on_gpu=True).dtype == "bfloat16"
        assert evaluation._resolved(self.settings("tiny", tmp_path), on_gpu=True).dtype == "float32"


def test_the_memory_of_vllms_allocator_is_out_like_torchs():
    from dgpo.run.telemetry import PhaseTimer, is_out_of_memory

    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("out of range"))
    timer = PhaseTimer(lambda phase, error: OutOfMemory(f"{phase}: {error}"))
    with (
        pytest.raises(OutOfMemory, match=r"load: CUDA Error: out of memory at csrc/cumem_allocator\.cpp"),
        timer.phase("load"),
    ):
        raise RuntimeError("CUDA Error: out of memory at csrc/cumem_allocator.cpp:62")
    with pytest.raises(RuntimeError, match="shape"), timer.phase("load"):
        raise RuntimeError("shape mismatch")
