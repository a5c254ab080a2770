"""One coordinate under plain SGD as a Markov chain: its nodes, its transition matrix, what follows, and the SDE's."""
