"""How the weights of the tiny SAM 3 are made: `python -m pretraining.train_tiny`."""
