"""Writing a sweep to MLflow; only the driver does so, never the workers."""
