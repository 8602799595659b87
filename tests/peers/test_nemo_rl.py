"""Every method in NeMo-RL's policy loss, and the patch, on a checkout named by DGPO_NEMO_RL (it is on no index)."""

import os
import pickle
import sys
from pathlib import Path
from unittest import mock

import patches
import pytest
import torch

if not (checkout := os.environ.get("DGPO_NEMO_RL")):
    pytest.skip("DGPO_NEMO_RL does not name a checkout of NeMo-RL", allow_module_level=True)

from peer_batches import KEYS, ours, same

import dgpo
from dgpo.errors import ConfigError

LOSSES = "nemo_rl.algorithms.loss.loss_functions"
NOT_NEEDED = (  # by the loss; they import what starts a GPU or a cluster
    "nemo_rl.algorithms.loss.utils",
    "nemo_rl.algorithms.loss.wrapper",
    "nemo_rl.algorithms.x_token.loss_utils",
    "nemo_rl.data.chat_templates",
    "nemo_rl.data.multimodal_utils",
    "nemo_rl.data.packing",
    "nemo_rl.distributed.collectives",
    "nemo_rl.distributed.model_utils",
    "nemo_rl.models.dtensor.parallelize",
    "nemo_rl.models.policy",
    "nemo_rl.utils.logger",
)


@pytest.fixture(scope="module")
def adapter():
    """With NeMo-RL's losses and batches, and stand-ins for the rest."""
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in NOT_NEEDED}):
        sys.path.append(checkout)
        from dgpo.integrations import nemo_rl

        yield nemo_rl
        sys.path.remove(checkout)


@pytest.fixture
def make(adapter):
    config = sys.modules[LOSSES].ClippedPGLossConfig
    return lambda key="dgpo", **settings: adapter.ClippedPGLossFn(
        config(**{"method": key, "reference_policy_kl_penalty": 0.0} | settings)
    )


@pytest.fixture
def data(batch):
    """NeMo-RL's batch, whose rows begin with a token that has no log-probability; the last row is left out."""
    rows = {"prev_logprobs": batch["old_logp"], "generation_logprobs": batch["old_logp"] - 0.1}
    rows |= {"advantages": batch["advantage"], "token_mask": batch["mask"].double()}
    made = {name: torch.cat([torch.full((8, 1), 7.0).double(), x], 1) for name, x in rows.items()}
    batch["mask"][7] = False
    batched = sys.modules["nemo_rl.distributed.batched_data_dict"].BatchedDataDict
    return batched(made | {"sample_mask": torch.tensor([1.0] * 7 + [0]).double()})


def theirs(loss_fn, batch, data, rows=slice(None)):
    """The gradient of the loss of some rows, which are a part of the whole batch."""
    logp = batch["logp"].clone().requires_grad_()
    part = type(data)({name: x[rows] for name, x in data.items()})
    loss_fn(logp[rows], part, torch.tensor(7), batch["mask"].sum())[0].backward()
    return logp.grad


@pytest.mark.parametrize("token_mean", [True, False])
@pytest.mark.parametrize("key", KEYS)
def test_every_method_has_our_gradient(make, data, batch, key, token_mean):
    loss_fn = make(key, token_level_loss=token_mean)
    same(theirs(loss_fn, batch, data), ours(batch, key, "token-mean" if token_mean else "seq-mean-token-mean"))


def test_packed_sequences_come_one_by_one(make, data, batch):
    """So does NeMo-RL's SequencePackingLossWrapper call a loss."""
    total = sum(theirs(make("gspo"), batch, data, [row]) for row in range(8))
    same(total, ours(batch, "gspo", "token-mean"))


def test_its_kl_and_its_correction_of_the_sampler_stay(make, data, batch):
    data["generation_logprobs"] = data["prev_logprobs"] + 0.3 * torch.randn(8, 13, dtype=torch.float64)
    data["reference_policy_logprobs"] = data["prev_logprobs"] - 0.5
    tis = {"use_importance_sampling_correction": True, "truncated_importance_sampling_ratio": 1.2}
    tis["truncated_importance_sampling_type"] = "tis"
    factor = (data["prev_logprobs"] - data["generation_logprobs"])[:, 1:].exp().clamp(max=1.2)
    same(theirs(make(**tis), batch, data), ours(batch, "dgpo", "token-mean") * factor)
    with_kl = theirs(make("pg", reference_policy_kl_penalty=0.3), batch, data) - theirs(make("pg"), batch, data)
    own = sys.modules[LOSSES].ClippedPGLossFn
    config = sys.modules[LOSSES].ClippedPGLossConfig
    silent = type(data)(data | {"advantages": torch.zeros(8, 13).double()})
    same(with_kl, theirs(own(config(reference_policy_kl_penalty=0.3)), batch, silent))


def test_the_loss_reaches_the_workers_with_its_method(make):
    assert pickle.loads(pickle.dumps(make(method_params={"n": 2}))).method == dgpo.methods.get("dgpo", n=2)


def test_clipping_of_its_own_is_refused(make):
    with pytest.raises(ConfigError, match=r"ratio_clip_max=0.28 has no effect on loss_fn\.method='gppo': use loss_fn"):
        make("gppo", ratio_clip_max=0.28)
    with pytest.raises(ConfigError, match="use_cispo=True has no effect on"):
        make(use_cispo=True)


def test_the_patch_applies_to_the_source(tmp_path):
    place = "nemo_rl/algorithms/grpo.py"
    text = patches.apply("nemo_rl", Path(checkout) / place, place, tmp_path)
    assert "from dgpo.integrations.nemo_rl import ClippedPGLossFn\n" in text
    assert "    ClippedPGLossDataDict,\n)\n" in text
