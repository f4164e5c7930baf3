"""Presenting a sweep's results: tables, the HTML report, and its figures."""
