"""Model inversion: what a released classifier takes for typical of its classes."""
