"""Running a plan: dependency order, Ray Tune, one trial on a worker, figures, progress. Knows neither MLflow nor flags."""
