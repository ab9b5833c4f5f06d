"""Low-rank adaptation, and where it goes in SAM 3."""
