"""From records to statements: summaries, tests, contrasts, claims."""
