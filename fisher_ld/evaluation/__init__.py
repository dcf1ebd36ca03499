"""How good and how fast a model is: metrics, baselines, paired tests, efficiency."""
