"""Metrics, error types, calibration and label issues of predictions."""
