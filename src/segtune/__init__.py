"""segtune: from a Roboflow export to a fine-tuned, merged, evaluated SAM 3."""

__version__ = "0.1.0"
