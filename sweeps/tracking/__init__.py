"""MLflow, written by the driver alone."""
