"""Mean-field twins: the recursion that stands in for an adaptive optimizer, and averages over its starting point."""
