"""The plan: counts against the models themselves, FLOPs against torch's counter, bytes against what is allocated."""

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.plan import measure
from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import trainer
from dgpo.cards import CARDS, Hardware, hardware_of
from dgpo.config import ConfigError
from dgpo.memory import OutOfMemory, out_of_memory
from dgpo.plan import Work, predict
from dgpo.shapes import Shape, shape_of

SMALL_QWEN2 = {"vocab_size": 100, "hidden_size": 96, "intermediate_size": 320, "num_attention_heads": 6}


def qwen2(layers, dtype=torch.float32, **other):
    config = Qwen2Config(num_hidden_layers=layers, num_key_value_heads=2, **SMALL_QWEN2, **other)
    return Qwen2ForCausalLM(config).to(dtype).eval()


def like(name, **overrides):
    settings = {
        "task": "math",
        "data": "x",
        "dtype": "bfloat16",
        "log_reference_kl": False,
        "max_tokens_per_micro_batch": 8192,
    }
    sizes = {"prompts_per_step": 64, "group_size": 8, "max_prompt_tokens": 1024, "max_new_tokens": 4096}
    return configs.make({**settings, **sizes, "model": name, **overrides})


class TestCounts:
    @pytest.mark.parametrize(
        ("size", "parameters"), [("1.5B", 1_777_088_000), ("7B", 7_615_616_512), ("14B", 14_770_033_664)]
    )
    def test_the_published_models_have_their_published_parameters(self, size, parameters):
        """As in the index files of the three checkpoints (total_size / 2)."""
        assert shape_of(like(f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size}")).parameters == parameters

    @pytest.mark.parametrize("tied", [False, True])
    def test_the_body_is_what_is_neither_embedding_nor_head(self, tied):
        lm = qwen2(2, tie_word_embeddings=tied)
        shape = Shape.of(lm.config)
        assert shape.parameters == sum(p.numel() for p in lm.parameters())
        layers = [*lm.model.layers.parameters(), *lm.model.norm.parameters()]
        assert shape.body == sum(p.numel() for p in layers)
        assert (shape.queries, shape.keys) == (96, 32)

    def test_a_folder_is_read_and_an_unknown_name_is_refused(self, checkpoint):
        config = configs.make({"task": "math", "data": "x", "model": str(checkpoint)})
        assert shape_of(config).hidden == 32
        with pytest.raises(ConfigError, match=r"model='\./nowhere' does not exist"):
            shape_of(like("./nowhere"))

    def test_flops_of_a_forward_pass(self):
        """torch counts every pair of a masked product, no biases and norms; the head is asked for all tokens here."""
        lm, rows, tokens = qwen2(3, attn_implementation="eager"), 2, 50
        with FlopCounterMode(display=False) as counter:
            lm(torch.zeros(rows, tokens, dtype=torch.long))
        ours = Shape.of(lm.config).forward_flops(rows * tokens, rows * tokens**2, rows * tokens)
        assert ours == pytest.approx(counter.get_total_flops(), rel=0.01)


class TestBytes:
    def test_a_parked_optimizer_is_in_main_memory_during_rollouts_alone(self):
        name = "DeepSeek-R1-Distill-Qwen-1.5B"
        plain, parked = (predict(like(name, rollout="vllm", offload=how)) for how in ("none", "rollout"))
        states = plain.memory["rollout"]["optimizer"]
        assert states == 12 * plain.shape.parameters
        assert "optimizer" not in parked.memory["rollout"]
        assert {k: v for k, v in plain.memory.items() if k != "rollout"} == {
            k: v for k, v in parked.memory.items() if k != "rollout"
        }
        assert (plain.host, parked.host) == (0, states)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_a_layer_keeps(self, dtype):
        def kept(layers):
            lm = qwen2(layers, dtype)
            own = {t.untyped_storage().data_ptr() for t in (*lm.parameters(), *lm.buffers())}
            held = {}
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x: held.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage()) and x, lambda x: x
            ):
                lm.base_model(input_ids=torch.zeros(4, 64, dtype=torch.long), use_cache=False)
            return sum(storage.nbytes() for pointer, storage in held.items() if pointer not in own) / (4 * 64)

        shape = Shape.of(qwen2(1).config)
        assert (kept(3) - kept(1)) / 2 == pytest.approx(shape.kept_bytes(dtype.itemsize), rel=0.001)

    @pytest.mark.parametrize(("stage", "dtype"), [(1, "bfloat16"), (2, "float32"), (3, "bfloat16")])
    def test_what_deepspeed_holds(self, stage, dtype):
        """Weights, gradients, optimizer and buckets of a real engine, between micro-batches and before its step."""
        for measured, parts in measure(stage, dtype).values():
            assert sum(parts.values()) == pytest.approx(measured, rel=0.04)  # one gradient may outlive a first engine

    def test_sharding_divides_what_it_says(self):
        phases = {
            (stage, gpus): predict(like("DeepSeek-R1-Distill-Qwen-7B", zero_stage=stage), gpus).memory["update"]
            for stage in (1, 2)
            for gpus in (1, 8)
        }
        assert phases[1, 8]["optimizer"] == phases[1, 1]["optimizer"] / 8
        assert phases[1, 8]["weights"] == phases[2, 8]["weights"] == phases[1, 1]["weights"]
        assert phases[1, 8]["gradients"] == phases[1, 1]["gradients"]
        assert phases[2, 8]["gradients"] == 2 * phases[1, 1]["gradients"] / 8  # its part, in float32
        assert phases[1, 8]["activations"] == phases[1, 1]["activations"]

    def test_an_engine_over_several_gpus_shares_its_sequences_out(self):
        """What they decode together takes each as long as before; the weights are read by every one in part."""
        name = "DeepSeek-R1-Distill-Qwen-7B"
        alone, shared = (
            Work(config, shape_of(config), 8, 4096, Hardware())
            for config in (
                like(name, rollout="vllm", generation_batch_size=8, vllm={"tensor_parallel": n}) for n in (1, 8)
            )
        )
        assert (alone.live_rows, shared.live_rows) == (8, 8)
        assert shared.kv_bytes == alone.kv_bytes / 8
        assert shared.sampler_weights == alone.sampler_weights / 8
        many = like(name, rollout="vllm", generation_batch_size=10**6, vllm={"tensor_parallel": 8})
        assert Work(many, shape_of(many), 8, 4096, Hardware()).live_rows == many.batch_size

    @pytest.mark.parametrize("rollout", ["transformers", "vllm"])
    def test_a_sampler_of_its_own_process_keeps_its_memory_while_the_policy_is_updated(self, rollout):
        name = "DeepSeek-R1-Distill-Qwen-1.5B"
        alone, beside = (predict(like(name, rollout=rollout, asynchronous=x)).memory for x in (False, True))
        assert not {"sampler's copy", "KV cache"} & alone["update"].keys()
        for part in ("sampler's copy", "KV cache"):
            assert beside["update"][part] == beside["rollout"][part] > 0
        assert beside["update"].get("new weights", 0) == (rollout == "vllm") * 2 * 151_936 * 1_536

    def test_recomputing_layers_keeps_their_inputs_and_one_layer(self):
        name = "DeepSeek-R1-Distill-Qwen-1.5B"
        plain, again = (
            predict(like(name, gradient_checkpointing=x)).memory["update"]["activations"] for x in (False, True)
        )
        shape = shape_of(like(name))
        assert plain == 8192 * 28 * shape.kept_bytes(2)
        assert again == 8192 * (28 * 2 * 1536 + shape.kept_bytes(2))


class TestSeconds:
    def test_counted_by_hand(self):
        """64 prompts × 8 on 8 GPUs: 64 sequences of 256 + 2,048 tokens each, 8 updates, every rate as it is reached."""
        config, hardware = like("DeepSeek-R1-Distill-Qwen-1.5B", num_minibatches=8), Hardware(mfu=0.5, streaming=0.5)
        shape, got = shape_of(config), predict(config, 8, hardware).seconds
        tokens, pairs, outputs = 64 * 2304, 64 * 2304**2 / 2, 64 * 2048
        forward = 2 * shape.body * tokens + 4 * 1536 * 28 * pairs + 2 * 151_936 * 1536 * outputs
        assert got["old_logp"] == pytest.approx(forward / 494.5e12)
        assert got["update"] == pytest.approx((3 * forward + 2 * 151_936 * 1536 * outputs) / 494.5e12)
        reads = 4096 * (2 * shape.parameters + 64 * ((1024 + 2048) * 2 * 256 * 28 * 2 + 60 * 151_936))
        assert reads / 2.4e12 < got["decode"] == pytest.approx(4096 * 28 * 0.85e-3)  # the host is the slower
        assert got["communication"] == pytest.approx(2 * 8 * 7 / 8 * 2 * shape.parameters / 225e9)

    def test_longer_completions_take_longer_and_one_gpu_sends_nothing(self):
        config = like("DeepSeek-R1-Distill-Qwen-7B")
        short, long = predict(config, length=512), predict(config, length=4096)
        assert short.seconds["communication"] == 0
        assert short.seconds["update"] < long.seconds["update"] / 4
        assert all(math.isfinite(s) for s in long.seconds.values())


class TestCommand:
    WORDS = ("task=math", "data=x", "model=DeepSeek-R1-Distill-Qwen-7B", "dtype=bfloat16", "prompts_per_step=64")

    def test_it_says_what_fits_and_what_it_assumed(self, capsys):
        assert cli.main(["plan", *self.WORDS, "gradient_checkpointing=true", "--gpus", "8", "--memory", "141"]) == 0
        out = capsys.readouterr().out
        assert "7,615,616,512 parameters on 8 GPUs of 141 GB" in out
        for word in ("weights", "gradients", "optimizer", "activations", "logits", "KV cache", "decode", "4.8 TB/s"):
            assert word in out
        assert ": fits" in out

    def test_what_does_not_fit_is_said_and_is_the_exit_code(self, capsys):
        assert cli.main(["plan", *self.WORDS, "--memory", "80"]) == 1
        assert "DOES NOT FIT" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--gpus", "65"], "prompts_per_step=64 must be at least the number of GPUs, 65"),
            (["--memory", "0"], "memory=0"),
            (["--gpus", "0"], "gpus=0 must be positive"),
            (["model=./nowhere"], "does not exist"),
            (["--length", "0"], "length=0 must be above 0 and at most max_new_tokens="),
            (["--length", "1e6"], "length=1e+06 must be above 0"),
            (["rollout=vllm", "vllm={tensor_parallel: 2}"], "vllm.tensor_parallel=2 must divide the number of GPUs, 1"),
            (["rollout=vllm", "vllm={gpu_memory: 0.1}"], "vllm.gpu_memory=0.1 of 141 GB does not hold the weights"),
        ],
    )
    def test_what_is_refused_is_named(self, words, said, capsys):
        others = [word for word in self.WORDS if not (words[0].startswith("model=") and word.startswith("model="))]
        assert cli.main(["plan", *others, *words]) == 2
        assert said in capsys.readouterr().err


class TestOutOfMemory:
    @pytest.mark.parametrize(
        ("target", "phase", "word"),
        [
            ("dgpo.engine.Engine.update", "update", "activations"),
            ("dgpo.engine.Engine.logp", "old_logp", "logits"),
            ("dgpo.rollout.transformers.TransformersSampler.generate", "rollout", "KV cache"),
            ("dgpo.model.tiny.load_policy", "setup", "peak"),
        ],
    )
    def test_it_says_where_and_what_was_predicted(self, small, monkeypatch, capsys, target, phase, word):
        def full(*_args, **_kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        monkeypatch.setattr(target, full)
        monkeypatch.setattr(trainer.Trainer, "report", lambda *_: None)  # without the evaluation before the first step
        monkeypatch.setattr(trainer, "check_model", lambda *_: None)  # which samples too, in the setup
        with pytest.raises(OutOfMemory, match=rf"in {phase}: CUDA out of memory\. Tried"):
            trainer.train(configs.make(small))
        words = [f"{k}={v}" for k, v in small.items()]
        assert cli.main(["train", "tiny", *words, "overwrite=true"]) == 3
        said = capsys.readouterr().err
        assert "plan predicted a peak of" in said
        assert word in said

    def test_without_a_prediction_it_says_so(self):
        error = out_of_memory(like("./nowhere"), "update", torch.OutOfMemoryError("no"))
        assert "out of GPU memory in update: no" in str(error)
        assert "plan has no prediction: model='./nowhere' does not exist" in str(error)


class TestCards:
    def test_a_card_brings_its_bandwidth_and_a_given_field_replaces_it(self):
        assert hardware_of("h100").bandwidth == 3.35e12
        assert hardware_of("b200", memory=1e11) == replace(CARDS["b200"], memory=1e11)
        with pytest.raises(ConfigError, match="gpu='v100' must be one of a100, h100, h200, b200"):
            hardware_of("v100")
