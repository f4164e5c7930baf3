"""Sweeps of many trials: planning, storage, scheduling with Ray Tune, tracking with MLflow, and the command line."""
