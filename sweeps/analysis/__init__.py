"""Statistics over trial records: summaries of arms, significance tests, contrasts with base, and tests of claims."""
