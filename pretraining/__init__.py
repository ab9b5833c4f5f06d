"""How the weights of the tiny SAM 3 were trained: `python -m pretraining.train_tiny`."""
