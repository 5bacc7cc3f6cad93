"""Rules that turn the updates of a cohort into one release."""
