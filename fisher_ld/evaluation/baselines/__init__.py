"""Rivals that read no text: a file and a row of the catalogue for each."""
