"""What all adapters share; each with its trainer in tests/peers."""

from pathlib import Path

import pytest
import torch

import dgpo
from analysis import runs
from dgpo.errors import ConfigError
from dgpo.integrations import common
from dgpo.integrations.records import TokenRecords


@pytest.fixture
def batch():
    torch.manual_seed(0)
    old_logp = -torch.rand(4, 6, dtype=torch.float64) * 4 - 2
    logp = old_logp + torch.randn(4, 6, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [5]])
    return logp, old_logp, torch.randn(4, 1, dtype=torch.float64), mask


def ours(logp, *rest, key):
    logp = logp.clone().requires_grad_()
    dgpo.policy_loss(logp, *rest, method=key, loss_aggregation="token-mean").backward()
    return logp.grad


@pytest.mark.parametrize("key", common.supported())
def test_both_forms_of_a_loss_have_the_gradient_of_policy_loss(batch, key):
    logp, old_logp, advantage, mask = batch
    method = dgpo.methods.get(key)
    mine = ours(*batch, key=key)
    first, second = (logp.clone().requires_grad_() for _ in range(2))
    (common.token_loss(first, old_logp, advantage, mask, method)[0].sum() / mask.sum()).backward()
    scaled, shifted, _ = common.as_ratio_loss(second, old_logp, advantage, mask, method)
    (-(scaled * (second - shifted).exp() * mask).sum() / mask.sum()).backward()
    torch.testing.assert_close(first.grad, mine, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(second.grad, mine, rtol=1e-6, atol=1e-9)


def test_masked_values_reach_neither_form(batch):
    logp, old_logp, advantage, mask = batch
    dirty = torch.where(mask, logp, torch.nan)
    for form in (common.token_loss, common.as_ratio_loss):
        clean = form(logp, old_logp, advantage, mask, dgpo.methods.get("dgpo"))[0]
        assert torch.equal(form(dirty, old_logp, advantage, mask, dgpo.methods.get("dgpo"))[0], clean)


def test_a_far_token_keeps_its_weight_within_float32():
    logp = torch.tensor([[-1.0, -300.0]])
    old_logp, advantage, mask = logp - torch.tensor([[200.0, -200.0]]), torch.ones(1, 1), torch.ones(1, 2)
    scaled, shifted, w_log = common.as_ratio_loss(logp, old_logp, advantage, mask, dgpo.methods.get("gppo"))
    torch.testing.assert_close(scaled * (logp - shifted).exp(), w_log, rtol=1e-4, atol=0)


def test_a_hook_that_is_not_there_is_named():
    assert common.hook("torch", "2.11", "torch:where") is torch.where
    with pytest.raises(ImportError, match=r"^torch 2.*: there is no torch:nowhere; .* is tested with torch 2\.11$"):
        common.hook("torch", "2.11", "torch:nowhere")
    with pytest.raises(ImportError, match=r"dgpo\.api:policy_loss has no parameter 'clip'"):
        common.hook("torch", "2.11", "dgpo.api:policy_loss", "logp", "clip")
    with pytest.raises(ImportError, match=r"^no-such-trainer is not installed; .* tested with no-such-trainer 1\.0$"):
        common.hook("no-such-trainer", "1.0", "no_such_trainer.loss:loss")


def test_the_method_is_named_by_the_environment(monkeypatch):
    monkeypatch.setenv("DGPO_METHOD_PARAMS", '{"n": 2}')
    assert common.method_from_environment() == dgpo.methods.get("dgpo", n=2)


def test_parameters_do_not_go_with_a_method_that_is_made():
    with pytest.raises(ValueError, match="has its parameters already"):
        common.make_method(dgpo.methods.get("dgpo"), {"n": 2})


def test_records_are_a_run_that_analysis_reads(batch, tmp_path):
    logp, old_logp, advantage, mask = batch
    method = dgpo.methods.get("gppo", eps_high=0.28)
    records = TokenRecords(tmp_path / "run", method, share=1.0)
    w_log = method.weight(logp, old_logp, advantage, mask)
    for step in (1, 2):
        records.add(step, 0, logp, old_logp, advantage, mask, w_log)
    records.flush()
    run = runs.read(tmp_path / "run")
    assert run.method == method
    assert run.tokens().groupby("step").size().to_dict() == {1: int(mask.sum()), 2: int(mask.sum())}
    with pytest.raises(ConfigError, match="is not empty; give a new folder"):
        TokenRecords(tmp_path / "run", method)


def test_an_adapter_is_thin():
    folder = Path(common.__file__).parent
    shared = {"__init__", "common", "records"}
    lengths = {path.stem: len(path.read_text().splitlines()) for path in folder.glob("*.py") if path.stem not in shared}
    assert len(lengths) >= 7
    assert {name: length for name, length in lengths.items() if length > 80} == {}
