"""What every other wing builds on: errors, settings, files, processes."""
