"""Figures. They read Datasets and return matplotlib figures; they compute nothing."""
