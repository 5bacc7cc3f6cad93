"""Analyses of the updates of a cohort: who is suspect, and what becomes of his row."""
