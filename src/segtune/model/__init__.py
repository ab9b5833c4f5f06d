"""SAM 3: architecture, weights, forward pass and inference."""
