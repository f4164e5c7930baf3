"""What a trained encoder is worth: pure functions of features, and a registry of metrics. Imports core only."""
