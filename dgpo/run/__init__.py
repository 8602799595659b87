"""A run's folder: what is written there, checked there and read back."""
