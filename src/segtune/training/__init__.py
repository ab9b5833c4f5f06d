"""Fine-tuning: data, steps, checkpoints."""
