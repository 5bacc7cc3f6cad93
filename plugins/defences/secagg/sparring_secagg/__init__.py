"""Secure aggregation: clients seal their updates, and the server learns their sum alone."""
