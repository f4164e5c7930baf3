"""Running a plan: dependency order, Ray Tune, one trial on a worker, figures, progress. Depends on neither MLflow nor flags."""
