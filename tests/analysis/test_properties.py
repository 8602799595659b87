"""analysis.properties: known answers for methods it has never seen, the paper's table, and the command line."""

import json
import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from analysis import figure2
from analysis.properties import describe, load, main, render
from dgpo.methods import Method, get, get_class, names


def method(function, **attributes):
    """A frozen Method whose weight is `function(r, a, log_r)`."""

    @dataclass(frozen=True)
    class Unseen(Method):
        def weight(self, logp, old_logp, advantage, mask=None):
            return function(torch.exp(logp - old_logp), advantage, logp - old_logp)

    for name, value in attributes.items():
        setattr(Unseen, name, value)
    return Unseen()


def left(r, a, inside, outside):
    return torch.where((r < 0.8) & (a < 0), outside, inside)


def flags(side):
    return side.explores, side.converges, side.continuous


def test_figure_2_of_the_paper():
    assert len(figure2.compare()) == 0  # 78 of 78
    found = figure2.windows((0.5, 0.9), (1.1, 1.5))
    assert found.to_numpy().tolist() == [[75, 75], [75, 78]], "the words depend on the windows"
    assert figure2.table().shape == (6, 13)
    for pi_old in (1e-4, 0.01, 0.1):
        assert len(figure2.compare(pi_old)) <= 6


def test_root_is_biased_everywhere():
    p = describe(method(lambda r, a, t: torch.exp(0.5 * t)))
    assert flags(p.LN) == (True, False, True)
    assert flags(p.HP) == (True, True, True)
    assert p.bias["IN"] == p.bias["LP"] == "biased"
    assert p.lagging == {"LP": "large", "HN": "small"}
    assert np.allclose([p.exponents["w_log_LN"], p.exponents["w_prob_HP"]], [0.5, -0.5])


def test_a_clip_away_from_the_declared_boundary_is_found():
    p = describe(method(lambda r, a, t: torch.where((r < 0.5) & (a < 0) | (r > 3) & (a > 0), 0.0, r)))
    assert flags(p.LN) == flags(p.HP) == (False, True, False)
    assert p.bias["LN"] == p.bias["HP"] == "large"
    assert p.bias["IN"] == "unbiased"
    assert np.allclose([j.ratio for j in p.jumps], [0.5, 3])
    assert all(math.isnan(v) for v in p.exponents.values())


@pytest.mark.parametrize(
    ("outside", "bounded"),
    [
        (lambda r: r * (1 + torch.log(0.8 / r)), False),  # w_prob diverges as a logarithm
        (lambda r: r * (2 - (r / 0.8) ** 0.2), True),  # rises slowly to a bound
        (lambda r: r * (r / 0.8) ** -0.01, False),
        (lambda r: r * (r / 0.8) ** 0.01, True),
        (lambda r: torch.exp(1 - 1 / r), True),  # underflows
        (lambda r: 0.8 - 2 * (0.8 - r), False),  # ends at a negative constant
    ],
)
def test_boundedness_on_the_left(outside, bounded):
    assert describe(method(lambda r, a, t: left(r, a, r, outside(r)))).LN.converges is bounded


@pytest.mark.parametrize("scale", [0.0, 0.5, 0.99, 0.999, 1.0])
def test_jumps_at_the_boundary(scale):
    p = describe(method(lambda r, a, t: left(r, a, r, scale * r)))
    assert p.LN.continuous is (scale == 1)
    assert p.HP.continuous
    assert p.LN.explores is (scale > 0)
    assert (
        p.bias["LN"] == {0.0: "large", 0.5: "large", 0.99: "small", 0.999: "small", 1.0: "unbiased"}[scale]
        or scale == 0.5
    )


def test_steep_is_not_a_jump_and_a_cusp_is_not_either():
    assert describe(method(lambda r, a, t: r * torch.sigmoid((r - 0.8) * 200))).LN.continuous
    assert describe(method(lambda r, a, t: left(r, a, r, r + (0.8 - r).clamp(min=0).sqrt()))).LN.continuous


def test_negative_weights():
    p = describe(method(lambda r, a, t: torch.where((r > 1.2) & (a > 0), -0.5 * torch.ones_like(r), r)))
    assert flags(p.HP) == (True, True, False)
    assert p.bias["HP"] == "large"
    assert p.jumps[0].above == -0.5


def test_growth_on_the_right_does_not_converge():
    assert not describe(method(lambda r, a, t: torch.where((r > 1.2) & (a > 0), r * r / 1.2, r))).HP.converges
    assert not describe("pg").HP.converges
    assert describe("reinforce").HP.converges


def test_its_own_trust_region_is_used():
    wide = method(lambda r, a, t: torch.where((r < 0.4) & (a < 0), 0.4, r), trust_region=(0.6, 1.0))
    p = describe(wide)
    assert p.trust_region == (0.6, 1.0)
    assert p.bias["IN"] == "unbiased"
    assert flags(p.LN) == (True, False, True)


def test_functions_float32_internals_and_sequence_methods():
    def half(logp, old_logp, advantage, mask=None):
        with torch.no_grad():
            return (0.5 * (logp.float() - old_logp.float())).exp().to(logp.dtype)

    assert describe(half).method == "half"
    assert not describe(half).jumps
    assert flags(describe("gspo").LN) == (False, True, False)


@pytest.mark.parametrize(("n", "m"), [(0.5, 1.0), (1.0, 2.0), (3.0, 8.0), (40.0, 0.5)])
def test_exponents_of_dgpo(n, m):
    e = describe(get("dgpo", n=n, m=m), pi_old=0.01).exponents
    found = [e[k] for k in ("w_prob_LN", "w_log_LN", "w_prob_HP", "w_log_HP")]
    np.testing.assert_allclose(found, [n, n + 1, -1 / m, 1 - 1 / m], atol=1e-9)


@pytest.mark.parametrize(("pi_old", "peak"), [(1e-2, 4.35), (1e-4, 43.5), (1e-6, 435)])
def test_largest_logit_gradient_on_the_right(pi_old, peak):
    assert math.isclose(describe(get("dgpo", eps_high=0.28), pi_old).max_logit["HP"], peak, rel_tol=2e-3)
    assert describe("gppo", pi_old).max_logit["HP"] <= 1.28


@pytest.mark.parametrize("key", [key for key in names() if get_class(key).has_curve()])
def test_every_method_can_be_described_and_printed(key):
    p = describe(key)
    assert p == describe(key)
    assert render(p)
    assert json.loads(json.dumps(p.to_dict()))["LN"]["explores"] is p.LN.explores


def test_errors_name_the_culprit():
    with pytest.raises(ValueError, match=r"Unseen.weight returned NaN"):
        describe(method(lambda r, a, t: torch.log(r - 0.5)))
    with pytest.raises(ValueError, match=r"Unseen.weight is infinite"):
        describe(method(lambda r, a, t: 1 / (r * 0)))
    with pytest.raises(ValueError, match=r"Unseen.weight returned torch.float64 \(1,\)"):
        describe(method(lambda r, a, t: r[:1, 0]))
    for pi_old in (0, 0.9, 2, math.nan):
        with pytest.raises(ValueError, match="pi_old="):
            describe("dgpo", pi_old=pi_old)


def test_command_line(tmp_path, capsys):
    (tmp_path / "mymodule.py").write_text(
        "from dataclasses import dataclass\nfrom dgpo.methods import get_class, Method\n\n"
        "@dataclass(frozen=True)\nclass MyMethod(Method):\n"
        "    def weight(self, logp, old_logp, advantage, mask=None):\n        return (2 * (logp - old_logp)).exp()\n"
    )
    command = [sys.executable, "-m", "analysis.properties", "dgpo", "mymodule:MyMethod", "--json"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    dgpo, mine = json.loads(out)
    assert dgpo["LN"] == {"explores": True, "converges": True, "continuous": True}
    assert math.isclose(mine["exponents"]["w_log_LN"], 2)
    assert main(["grpo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["exponents"]["w_log_LN"] is None
    assert main(["dgpo"]) == 0
    assert "explores yes" in capsys.readouterr().out
    for bad in ("nope", "nomodule:X", "analysis.style:Nope"):
        with pytest.raises(SystemExit):
            main([bad])
    with pytest.raises(ValueError, match="has no 'Nope'"):
        load("analysis.style:Nope")
