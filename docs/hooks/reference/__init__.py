"""The reference, written from the code when the site is built."""
