"""Saved models in use: free text in, scores out."""
