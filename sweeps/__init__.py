"""Many runs: the plan, the store, Ray Tune as the scheduler, MLflow for comparison, the command line."""
