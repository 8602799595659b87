"""The policy: a causal LM, its log-probabilities, how it is loaded, and the built-in tiny one."""
