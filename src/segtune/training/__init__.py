"""Fine-tuning: data, optimizer steps, validation and checkpoints."""
