"""The numbers of a GPU and its links that `plan` uses: bytes, FLOPs and rates, as published and as reached."""

from dataclasses import dataclass, fields, replace

from dgpo.errors import ConfigError


@dataclass(frozen=True)
class Hardware:
    """One GPU and its links; the defaults are an H200's, CARDS has more.

    memory       bytes
    bandwidth    bytes a second of its memory, as published
    flops        bfloat16 matrix FLOPs a second, as published (dense)
    link         bytes a second to the other GPUs, one way, as published (NVLink)
    mfu          share of `flops` that forward and backward passes reach (0.31 to 0.34 measured: 1.5B on an H100)
    streaming    share of `bandwidth` and `link` that is reached (an assumption)
    """

    memory: float = 141e9
    bandwidth: float = 4.8e12
    flops: float = 989e12
    link: float = 450e9
    mfu: float = 0.31
    streaming: float = 0.6


CARDS = {  # as published: memory, its bandwidth, dense bfloat16, NVLink one way
    "a100": Hardware(80e9, 2.04e12, 312e12, 300e9),
    "h100": Hardware(80e9, 3.35e12, 989e12, 450e9),
    "h200": Hardware(141e9, 4.8e12, 989e12, 450e9),
    "b200": Hardware(180e9, 8e12, 2250e12, 900e9),
}


def hardware_of(card: str = "h200", **given: float | None) -> Hardware:
    """A card of CARDS with some fields replaced. Raises ConfigError for a value out of range."""
    if card not in CARDS:
        raise ConfigError(f"gpu={card!r} must be one of {', '.join(CARDS)}; for another give its memory, bandwidth, …")
    for name, value in given.items():
        largest = 1 if name in ("mfu", "streaming") else 1e18
        if value is not None and not 0 < value <= largest:
            names = ", ".join(f.name for f in fields(Hardware))
            raise ConfigError(f"{name}={value:g} must be in (0, {largest:g}]; fields: {names}")
    return replace(CARDS[card], **{name: value for name, value in given.items() if value is not None})
