"""Strategies that add trials while a sweep runs: further seeds, or points of a search."""
