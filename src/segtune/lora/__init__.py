"""Low-rank adaptation: layers, where they go in SAM 3, and adapters on disk."""
