"""Analysis of raw data, of the released model and of its inputs for backdoors and poison."""
