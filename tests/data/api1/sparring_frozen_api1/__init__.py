"""One plugin of each role as it was written for API 1. Frozen: it must pass against every later core that offers API 1."""
