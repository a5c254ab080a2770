"""The calibration of what `mcnqm` estimates from samples: cells, truths, scores, storage and report."""
