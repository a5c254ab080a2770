"""One file per research question: a configuration in, a Dataset out."""
