from peer_batches import batch  # noqa: F401
