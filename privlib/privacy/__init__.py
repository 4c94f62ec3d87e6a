"""Differential privacy: accounting, sampling, training, audit, and private models of real accuracy."""
