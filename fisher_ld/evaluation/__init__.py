"""How good and how fast a model is: scores, metrics, rivals, the per-user table, paired tests, the gate, efficiency."""
