"""Ranking metrics: a file for each or for those that belong together, a row of the catalogue for each."""
