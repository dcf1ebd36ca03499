"""Rivals, a file and a row of the catalogue for each: some learn from likes, others compare texts and learn nothing."""
