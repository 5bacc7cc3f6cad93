"""Records of patients as feature vectors, with sensitive attributes as group columns."""
