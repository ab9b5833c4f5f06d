"""What is doubtful about a converted dataset: rules, and the checks that find what breaks them."""
