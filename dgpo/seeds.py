"""Seeds that depend on what they are used for, and on nothing drawn before."""

import hashlib


def fold_in(*parts) -> int:
    """A 63-bit seed from the run's seed and the names of a place: `fold_in(seed, "rollout", step, i)`.

    A step's randomness is a function of (seed, step), so a resumed run needs no saved generator.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
