"""Libraries that queue on Redis."""
