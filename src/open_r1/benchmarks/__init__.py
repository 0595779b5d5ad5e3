"""What a model is scored on: the table, the adapter to LightEval, and the statistics of its scores."""
