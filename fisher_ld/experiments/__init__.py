"""The tables and claims of the paper as data, and what a run puts into them."""
