"""Arrays and numbers only: random bits, one step's arithmetic, and the loops. No xarray, no objects."""
