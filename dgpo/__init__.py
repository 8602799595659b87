"""dgpo: see what clipping does to a policy gradient, then train with it.

    import dgpo

    dgpo.plot("dgpo", "grpo", "cispo")                    the weight that each method puts on a token
    run = dgpo.train("tiny", method="dgpo", n=2)          a Run: .metrics .tokens() .plot_learning() .plot_weights()
    dgpo.evaluate(run.policy, benchmarks=["chain"], n=8)
    dgpo.sweep("docs/results/best.yaml", jobs=2)
    dgpo.methods.get("dgpo", n=2).weight(logp, old_logp, advantage)

`import dgpo` is quick: what a name needs (torch takes seconds) is imported when the name is first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.runs import Run
    from dgpo import methods
    from dgpo.api import evaluate, plot, policy_loss, read_run, sweep, train
    from dgpo.config import Config
    from dgpo.config import load as load_config
    from dgpo.errors import ConfigError
    from dgpo.methods import Method, register

__version__ = "0.2.0"

_API = {
    "Config": "dgpo.config:Config",
    "ConfigError": "dgpo.errors:ConfigError",
    "Method": "dgpo.methods:Method",
    "Run": "analysis.runs:Run",
    "evaluate": "dgpo.api:evaluate",
    "load_config": "dgpo.config:load",
    "methods": "dgpo.methods",
    "plot": "dgpo.api:plot",
    "policy_loss": "dgpo.api:policy_loss",
    "read_run": "dgpo.api:read_run",
    "register": "dgpo.methods:register",
    "sweep": "dgpo.api:sweep",
    "train": "dgpo.api:train",
}

__all__ = [
    "Config",
    "ConfigError",
    "Method",
    "Run",
    "evaluate",
    "load_config",
    "methods",
    "plot",
    "policy_loss",
    "read_run",
    "register",
    "sweep",
    "train",
]


def __getattr__(name: str):
    if name not in _API:
        raise AttributeError(f"module 'dgpo' has no attribute {name!r}; it has {', '.join(_API)}")
    module, _, attribute = _API[name].partition(":")
    found = importlib.import_module(module)
    globals()[name] = value = getattr(found, attribute) if attribute else found
    return value


def __dir__():
    return sorted({*globals(), *_API})
