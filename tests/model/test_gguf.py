"""A GGUF file becomes a policy like any other: a small one of random weights, written here."""

import importlib.util
import sys

import numpy as np
import pytest
import torch
from running import make_batch

from dgpo.config import ConfigError
from dgpo.model.loading import load_lm, load_shape
from dgpo.model.policy import Policy
from dgpo.run.identity import of_model

HIDDEN, LAYERS, HEADS, FFN = 32, 2, 2, 64
WORDS = [*map(chr, range(33, 127)), "Ġ", "Ċ", "in", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
needs_gguf = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("gguf", "accelerate"))), reason="needs the extra gguf"
)


def write(path, architecture="llama", seed=0):
    """A Llama with tied embeddings and a byte-level tokenizer. Returns its tensors by their names in the file."""
    import gguf

    rng = np.random.default_rng(seed)
    shapes = {"token_embd.weight": (len(WORDS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        parts = {f"attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        parts |= {"ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN)}
        parts |= {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{part}.weight": shape for part, shape in parts.items()}
    tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("random")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([1] * (len(WORDS) - 3) + [3] * 3)
    writer.add_token_merges(["i n"])
    writer.add_bos_token_id(len(WORDS) - 2)
    writer.add_eos_token_id(len(WORDS) - 1)
    writer.add_pad_token_id(len(WORDS) - 1)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@needs_gguf
def test_it_is_saved_as_an_ordinary_checkpoint_of_the_same_policy(tmp_path):
    tensors = write(tmp_path / "small.gguf")
    lm, tokenizer = load_lm(tmp_path / "small.gguf")
    assert np.array_equal(lm.model.layers[1].mlp.up_proj.weight.detach(), tensors["blk.1.ffn_up.weight"])
    assert np.array_equal(lm.get_output_embeddings().weight.detach(), tensors["token_embd.weight"])
    lm.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, same = load_lm(tmp_path / "saved")
    assert same("3 + 4 = 7<|im_end|>").input_ids == tokenizer("3 + 4 = 7<|im_end|>").input_ids
    batch = make_batch([[5, 7], [3]], [[9, 12, 4], [60, 1]])
    with torch.no_grad():
        assert torch.equal(Policy(lm)(batch)[0], Policy(again)(batch)[0])


@needs_gguf
def test_another_file_is_another_model(tmp_path):
    write(tmp_path / "a.gguf")
    first = of_model(tmp_path / "a.gguf")
    write(tmp_path / "a.gguf", seed=1)
    assert first.keys() == {"a.gguf"}
    assert first != of_model(tmp_path / "a.gguf")


@needs_gguf
def test_files_that_do_not_serve(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.gguf' does not exist"):
        load_shape(tmp_path / "nowhere.gguf")
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"a\.gguf' is not a GGUF file"):
        load_shape(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid 1")
    with pytest.raises(ConfigError, match="git lfs pull"):
        load_shape(tmp_path / "a.gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\x00")
    with pytest.raises(ConfigError, match=r"model='.*a\.gguf': "):
        load_shape(tmp_path / "a.gguf")
    write(tmp_path / "b.gguf", architecture="resonator")
    with pytest.raises(ConfigError, match=r"b\.gguf': .*resonator"):
        load_lm(tmp_path / "b.gguf")


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else real(name, *a))
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    with pytest.raises(ConfigError, match=r"needs the package gguf.*pip install 'dgpo\[gguf\]'"):
        load_shape(tmp_path / "a.gguf")
