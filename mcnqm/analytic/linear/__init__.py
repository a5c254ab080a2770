"""Linear optimizers: the map of one step on means and second moments, its powers, and when they reach a target."""
