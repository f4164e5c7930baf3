"""What to run next: further seeds, or points of a search."""
