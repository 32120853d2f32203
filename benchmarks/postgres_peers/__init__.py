"""Libraries that queue on PostgreSQL."""
