"""What is asked of a model before it is trained: small ones of many architectures, right ones and wrong ones."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from dgpo.config import ConfigError
from dgpo.model.loading import load_lm
from dgpo.model.output_layer import check_output_layer, ordinary_tokens
from dgpo.model.policy import Policy
from dgpo.rollout.selfcheck import check_model
from dgpo.tasks import chain

WORDS = 96
USUAL = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
HYBRID = {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["linear_attention", "full_attention"]}
RIGHT = {
    "Qwen2": {},
    "Llama": {},
    "Mistral": {"sliding_window": 8},
    "Gemma": {"head_dim": 8},
    "Phi3": {},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_key_value_heads": 4},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "Falcon": {"alibi": True},
    "Mamba": {"state_size": 8},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 8},
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
}
OTHER_LOGITS = {
    "Cohere": {"logit_scale": 0.0625},
    "Granite": {"logits_scaling": 8.0},
    "Gemma2": {"head_dim": 8, "final_logit_softcapping": 30.0},
    "MiniCPM3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
}


def build(name, dtype=torch.float32, **fields):
    """An architecture with random weights."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**USUAL, **fields})
    return transformers.AutoModelForCausalLM.from_config(config).eval().to(dtype)


class TestOutputLayer:
    @pytest.mark.parametrize("name", RIGHT)
    def test_a_plain_one_is_taken(self, name):
        check_output_layer(build(name, **RIGHT[name]))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("pad_row", ["zeros", "random"])
    @pytest.mark.parametrize("name", OTHER_LOGITS)
    def test_a_scale_or_a_cap_is_refused_whatever_the_pad_tokens_row(self, name, pad_row, dtype):
        """The logits of a new model are small, and a cap at 30 leaves them as they are."""
        lm = build(name, dtype, **OTHER_LOGITS[name])
        with torch.no_grad():
            row = lm.get_input_embeddings().weight[0]
            row.zero_() if pad_row == "zeros" else row.normal_(0, 0.02)
        with pytest.raises(
            ConfigError, match=rf"model_type='{name.lower()}' changes its logits after the output layer"
        ):
            Policy(lm)

    def test_a_model_without_a_base_model_is_named(self):
        lm = build("Llama4Text", head_dim=8, num_local_experts=2, intermediate_size_mlp=48, attention_chunk_size=16)
        with pytest.raises(ConfigError, match=r"model_type='llama4_text' is not supported: .* no base model"):
            Policy(lm)

    def test_weights_that_are_no_number_are_not_taken_for_a_scale(self):
        lm = build("Qwen2")
        with torch.no_grad():
            lm.model.norm.weight[3] = torch.nan
        with pytest.raises(ConfigError, match="model_type='qwen2': its logits are NaN or infinite"):
            Policy(lm)

    def test_an_error_in_the_models_own_code_names_the_model(self):
        lm = build("Qwen2")
        lm.model.norm.forward = lambda x: x.no_such_thing
        with pytest.raises(ConfigError, match="model_type='qwen2' does not compute a plain batch: AttributeError: "):
            Policy(lm)


class TestSequences:
    """log π of a sequence is the same in a batch and alone, by the trainer and by the sampler."""

    @staticmethod
    def check(lm, length=60, right_padded=False, **settings):
        config = SimpleNamespace(**{"rollout": "transformers", "self_check": "refuse", **settings})
        check_model(config, Policy(lm, right_padded=right_padded), chain.tokenizer(), length)

    @pytest.mark.parametrize("name", RIGHT)
    def test_right_ones_are_taken_and_left_as_they_are(self, name):
        lm = build(name, **RIGHT[name])
        before, seeded = {k: v.clone() for k, v in lm.state_dict().items()}, torch.get_rng_state()
        self.check(lm, right_padded=name == "Llama")
        assert all(torch.equal(v, before[k]) for k, v in lm.state_dict().items())
        assert torch.equal(torch.get_rng_state(), seeded)
        assert not any(module._forward_hooks for module in lm.modules())

    def test_bfloat16_rounds_more_and_is_taken(self):
        self.check(build("Qwen2", torch.bfloat16))

    def test_a_policy_that_is_all_but_certain_is_taken(self, checkpoint):
        """Its log π are small differences of large logits, and have the rounding of those."""
        lm, tokenizer = load_lm(checkpoint)
        config = SimpleNamespace(rollout="transformers", self_check="refuse")
        for length in (11, 14, 17, 20):
            check_model(config, Policy(lm, temperature=0.6), tokenizer, length)

    def test_padding_that_is_computed_with(self):
        lm = build("Rwkv", attention_hidden_size=32)
        with pytest.raises(
            ConfigError, match=r"'rwkv': log-probabilities of a sequence in a batch and alone differ by 0\.1"
        ):
            self.check(lm)
        with pytest.raises(ConfigError, match=r"by the sampler, in a batch with padding, and by the trainer differ"):
            self.check(lm, right_padded=True)  # which RWKV computes rightly, and the sampler pads on the left

    @pytest.mark.parametrize("length", [60, 3])
    def test_a_cache_that_is_not_what_was_computed(self, length):
        lm = build("Qwen2")
        forward = lm.forward
        names = ("past_key_values", "cache")  # in transformers up to 5.23, and after it
        lm.forward = lambda **inputs: forward(**{k: v for k, v in inputs.items() if k not in names})
        if length == 60:
            with pytest.raises(
                ConfigError, match="'qwen2': log-probabilities by the sampler, with its cache, and by the"
            ):
                self.check(lm, length)
        else:  # one token is sampled, and no cache is read
            self.check(lm, length)

    def test_minimax_is_refused_in_a_padded_batch(self):
        lm = build("MiniMax", head_dim=8, block_size=16, **HYBRID)
        with pytest.raises(ConfigError, match=r"'minimax': log-probabilities by the sampler, in a batch with padding"):
            self.check(lm)
        self.check(lm, rollout="vllm")  # the trainer computes it as it should

    def test_recurrent_gemma_is_refused(self):
        lm = build(
            "RecurrentGemma",
            num_hidden_layers=3,
            num_key_value_heads=1,
            lru_width=32,
            attention_window_size=16,
            head_dim=8,
        )
        with pytest.raises(ConfigError, match="model_type='recurrent_gemma'"):
            self.check(lm)

    def test_longrope_past_its_original_length(self):
        lm = build("Phi3", original_max_position_embeddings=32, rope_parameters=LONG_ROPE)
        self.check(lm, length=32)
        with pytest.raises(ConfigError, match=r"'phi3': .*longrope.* more than 32 tokens, .* up to 33"):
            self.check(lm, length=33)

    def test_a_setting_makes_it_a_warning(self, capsys):
        self.check(build("Rwkv", attention_hidden_size=32), self_check="warn")
        assert capsys.readouterr().err.startswith(
            "warning: model_type='rwkv': log-probabilities of a sequence in a batch"
        )


def test_ordinary_tokens_are_neither_special_nor_rows_of_zeros():
    lm = build("Qwen2", vocab_size=64)
    with torch.no_grad():
        lm.get_input_embeddings().weight[40:] = 0
    ids = ordinary_tokens(lm, 8).tolist()
    assert len(set(ids)) == 8
    assert not {0, 1, 2} & {*ids}
    assert max(ids) < 40
