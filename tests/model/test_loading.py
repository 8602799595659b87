"""A checkpoint folder becomes a policy, or says by name why it does not; recomputed layers; optional kernels."""

import copy
import importlib.machinery
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from running import make_batch
from safetensors.torch import load_file, save_file

from dgpo import config as configs
from dgpo import config_rules
from dgpo.config import ConfigError
from dgpo.model import loading, tiny
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy, apply_liger, recompute_layers
from dgpo.tasks import chain


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of the small policy's folder, to be broken."""
    return shutil.copytree(checkpoint, tmp_path / "model")


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


class TestFoldersThatDoNotServe:
    def test_that_are_no_checkpoint(self, tmp_path):
        with pytest.raises(ConfigError, match=r"has no config\.json"):
            load_lm(tmp_path)
        with pytest.raises(ConfigError, match="does not exist"):
            load_lm(str(tmp_path / "nowhere"))

    def test_without_tokenizer(self, folder):
        for path in folder.glob("token*"):
            path.unlink()
        with pytest.raises(ConfigError, match="model' has no tokenizer"):
            load_lm(folder)

    def test_of_an_unknown_architecture(self, folder):
        edit(folder, model_type="resonator")
        with pytest.raises(ConfigError, match="model type `resonator` but Transformers does not recognize"):
            load_lm(folder)

    def test_that_is_no_causal_lm(self, folder):
        edit(folder, model_type="t5")
        with pytest.raises(ConfigError, match=r"T5Config.*AutoModelForCausalLM"):
            load_lm(folder)

    def test_without_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigError, match=r"no file named model\.safetensors"):
            load_lm(folder)

    def test_with_a_broken_config(self, folder):
        (folder / "config.json").write_text("{")
        with pytest.raises(ConfigError, match="not a valid JSON file"):
            load_lm(folder)

    def test_a_hub_name_that_is_not_at_hand(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(ConfigError, match="model='nobody/no-such-model': "):
            load_lm("nobody/no-such-model")


class TestWeights:
    """Weights that transformers would fill up with random numbers, drop, or stop at with a traceback."""

    def test_that_are_missing(self, folder):
        rewrite(folder, lambda weights: weights.pop("model.norm.weight"))
        with pytest.raises(ConfigError, match=r"model=.*: its weights lack model\.norm\.weight$"):
            load_lm(folder)

    def test_that_have_no_place(self, folder):
        """As those of the layers that a wrong num_hidden_layers leaves out."""
        edit(folder, num_hidden_layers=1, layer_types=["full_attention"])
        with pytest.raises(
            ConfigError, match=r"its weights have no place in its architecture: model\.layers\.1\.\S+, .*\.\.\.$"
        ):
            load_lm(folder)

    def test_of_another_shape(self, folder):
        words = len(chain.tokenizer())
        edit(folder, vocab_size=words + 8)
        expected = rf"the shapes that config\.json gives: \S+ is \[{words}, 32\] and should be \[{words + 8}, 32\]"
        with pytest.raises(ConfigError, match=expected):
            load_lm(folder)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_that_are_no_numbers(self, folder, value):
        rewrite(folder, lambda weights: weights["model.layers.1.mlp.up_proj.weight"][2].fill_(value))
        with pytest.raises(
            ConfigError, match=r"its weights are NaN or infinite: model\.layers\.1\.mlp\.up_proj\.weight$"
        ):
            load_lm(folder)

    def test_that_a_broken_download_left(self, folder):
        file = folder / "model.safetensors"
        whole = file.read_bytes()
        for rest in (whole[:9000], whole[:4], b""):
            file.write_bytes(rest)
            with pytest.raises(
                ConfigError, match=r"model=.*: model\.safetensors is cut short or damaged: copy it again "
            ):
                load_lm(folder)

    @pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
    def test_that_git_lfs_did_not_fetch(self, folder, name):
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n")
        with pytest.raises(ConfigError, match=f"model=.*: {name} is a git-lfs pointer: run `git lfs pull` there"):
            load_lm(folder)

    def test_that_would_run_code_when_they_are_read(self, folder, tmp_path):
        class Hostile:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        (folder / "model.safetensors").unlink()
        torch.save({"model.norm.weight": Hostile()}, folder / "pytorch_model.bin")
        with pytest.raises(ConfigError, match=r"model=.*: Weights only load failed"):
            load_lm(folder)
        assert not (tmp_path / "ran").exists()

    def test_tied_ones_are_stored_once(self, folder):
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        lm, _ = load_lm(folder)
        assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight


class TestTokens:
    """Tokens that the model has no row for: without the check an IndexError in the sampler, on a GPU an assertion."""

    @pytest.mark.parametrize(
        ("add", "message"),
        [
            (
                lambda t: t.add_special_tokens({"pad_token": "[PAD]"}),
                r"token {}, '\[PAD\]', is outside the model's {} rows",
            ),
            (
                lambda t: t.add_tokens(["seven", "eight"]),
                "token {}, 'seven', and 1 more are outside the model's {} rows",
            ),
        ],
    )
    def test_that_were_added(self, folder, add, message):
        tokenizer = chain.tokenizer()
        add(tokenizer)
        tokenizer.save_pretrained(folder)
        rows = len(chain.tokenizer())
        with pytest.raises(ConfigError, match=f"model=.*: {message.format(rows, rows)}"):
            load_lm(folder)

    def test_that_end_a_completion(self, folder):
        path = folder / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [1, 999]}))
        with pytest.raises(ConfigError, match=r"token 999, 'eos_token_id=999 of generation_config\.json', is outside"):
            load_lm(folder)

    def test_that_transformers_makes_up(self, folder):
        """Without its tokenizer_config.json a tokenizer gets the names of Qwen2's tokens."""
        (folder / "tokenizer_config.json").unlink()
        with pytest.raises(ConfigError, match=r"token \d+, '<\|endoftext\|>', is outside the model's \d+ rows"):
            load_lm(folder)

    def test_fewer_than_the_model_has_rows(self, folder):
        """A vocabulary is often padded to a round number."""
        lm, tokenizer = load_lm(folder)
        lm.resize_token_embeddings(64)
        lm.save_pretrained(folder)
        assert len(load_lm(folder)[0].get_input_embeddings().weight) == 64 > len(tokenizer)


OWN_CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from transformers import Qwen2Config, Qwen2ForCausalLM
class OwnConfig(Qwen2Config):
    model_type = "own"
class Own(Qwen2ForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_checkpoint_runs_only_when_asked_for(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    edit(folder, model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"})
    (folder / "own.py").write_text(OWN_CODE)
    with pytest.raises(ConfigError, match=r"contains custom code.*trust_remote_code=true runs it"):
        load_lm(folder)
    assert not list(tmp_path.rglob("ran"))
    assert type(load_lm(folder, trust_remote_code=True)[0]).__name__ == "Own"
    assert list(tmp_path.rglob("ran"))


class TestRecomputedLayers:
    @pytest.fixture
    def pair(self, checkpoint):
        plain = load_lm(checkpoint)[0]
        again = copy.deepcopy(plain)
        recompute_layers(again)
        return plain, again

    @pytest.mark.parametrize("right_padded", [False, True])
    def test_values_and_gradients_are_the_same_and_layers_run_twice(self, pair, right_padded):
        batch = make_batch([[5, 6], [7, 8, 9, 10], [11]], [[12, 13, 14], [15], [3, 4]])
        runs, gradients, values = [], [], []
        for lm in pair:
            calls = []
            lm.model.layers[0].self_attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            logp, _ = Policy(lm, right_padded=right_padded)(batch)
            calls.clear()
            logp.sum().backward()
            runs.append(len(calls))
            values.append(logp)
            gradients.append(torch.cat([p.grad.flatten() for p in lm.parameters()]))
        assert runs == [0, 1]
        assert torch.equal(*values)
        assert torch.equal(*gradients)

    def test_less_is_kept_for_the_backward_pass(self, pair):
        batch = make_batch([[5, 6]] * 8, [[12] * 20] * 8)
        kept = []
        for lm in pair:
            held = {}
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x, held=held: held.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x,
                lambda x: x,
            ):
                Policy(lm)(batch)
            kept.append(sum(held.values()))
        assert kept[1] < 0.6 * kept[0]

    def test_a_copy_computes_with_its_own_weights(self, pair):
        batch = make_batch([[5, 6]], [[12, 13]])
        other = copy.deepcopy(pair[1])
        before = Policy(pair[1])(batch)[0]
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert torch.equal(Policy(pair[1])(batch)[0], before)
        assert not torch.equal(Policy(other)(batch)[0], before)

    def test_a_model_without_such_layers_is_named(self, pair):
        lm = torch.nn.Linear(2, 2)
        lm.config = pair[0].config
        with pytest.raises(ConfigError, match=r"gradient_checkpointing=True: model_type='qwen2' has no layers"):
            recompute_layers(lm)


class TestAttention:
    def test_the_implementation_asked_for_is_used(self, checkpoint):
        batch = make_batch([[5, 6], [7]], [[12, 13, 14], [15]])
        lms = {name: load_lm(checkpoint, attention=name)[0] for name in ("auto", "sdpa", "eager")}
        assert [lm.config._attn_implementation for lm in lms.values()] == ["sdpa", "sdpa", "eager"]
        logp = {name: Policy(lm)(batch)[0] for name, lm in lms.items()}
        assert torch.equal(logp["auto"], logp["sdpa"])
        torch.testing.assert_close(logp["eager"], logp["sdpa"], rtol=1e-5, atol=1e-5)

    def test_flash_attention_where_it_cannot_be_is_named(self, checkpoint):
        with pytest.raises(
            ConfigError, match=r"flash_attention_2' needs a CUDA device, .* or 'float16', and .*flash-attn"
        ):
            load_lm(checkpoint, attention="flash_attention_2")

    @pytest.mark.parametrize(
        ("device", "dtype", "installed", "expected"),
        [
            ("cuda", "bfloat16", True, "flash_attention_2"),
            ("cuda", "bfloat16", False, None),
            ("cuda", "float32", True, None),
            ("cpu", "bfloat16", True, None),
        ],
    )
    def test_auto_takes_flash_attention_only_where_it_runs(self, monkeypatch, device, dtype, installed, expected, lm):
        monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: installed)
        assert loading._attention("auto", dtype, device, lm.config) == expected

    @pytest.fixture
    def lm(self, checkpoint):
        return load_lm(checkpoint)[0]


class TestLiger:
    @pytest.fixture
    def fake(self, monkeypatch):
        """Stands in for liger-kernel, which needs a GPU: notes what it is asked for."""
        package, transformers, patches = (
            ModuleType(f"liger_kernel{x}") for x in ("", ".transformers", ".monkey_patch")
        )
        calls = []
        patches.MODEL_TYPE_TO_APPLY_LIGER_FN = {"qwen2": None}
        transformers._apply_liger_kernel_to_instance = lambda model, **kwargs: calls.append((model, kwargs))
        package.__spec__ = importlib.machinery.ModuleSpec("liger_kernel", None)
        for name, module in (("", package), (".transformers", transformers), (".transformers.monkey_patch", patches)):
            monkeypatch.setitem(sys.modules, f"liger_kernel{name}", module)
        monkeypatch.setattr("transformers.integrations.liger.is_liger_kernel_available", lambda: True)
        return calls

    def test_its_own_losses_stay_off(self, fake, checkpoint):
        lm = load_lm(checkpoint)[0]
        apply_liger(lm)
        assert fake == [(lm, {"cross_entropy": False, "fused_linear_cross_entropy": False})]

    def test_an_architecture_without_kernels_is_named(self, fake, checkpoint):
        lm = load_lm(checkpoint)[0]
        lm.config.model_type = "gpt2"
        with pytest.raises(ConfigError, match="liger=True: Liger has no kernels for model_type='gpt2'"):
            apply_liger(lm)
        assert not fake

    def test_it_needs_a_gpu_and_the_package(self, monkeypatch):
        with pytest.raises(ConfigError, match="liger=True: Liger's kernels need a CUDA device"):
            config_rules.check_machine(configs.load("tiny", liger=True))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(ConfigError, match="kernels need a CUDA device"):
            config_rules.check_machine(configs.load("tiny", liger=True, device="cpu"))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="liger=True needs the package liger-kernel"):
            config_rules.check_machine(configs.load("tiny", liger=True))


def test_a_tokenizer_file_is_read_as_it_was_saved(folder):
    """Beside a Qwen2 model, AutoTokenizer would split words as Qwen2 does, whatever the file says."""
    saved = chain.tokenizer()
    _, loaded = load_lm(folder)
    text = r"<think>7+5=2</think>\boxed{2}"
    assert loaded(text).input_ids == saved(text).input_ids
    assert loaded.padding_side == "left"


def test_the_precision_of_matrix_products_is_that_of_the_config_and_not_of_the_run_before(checkpoint):
    for wanted in ("medium", "highest"):
        tiny.load_policy(configs.load("tiny", model=str(checkpoint), float32_matmul=wanted))
        assert torch.get_float32_matmul_precision() == wanted
