"""What every other wing stands on: errors, settings, files, processes."""
