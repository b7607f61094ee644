"""The held-out ratings and the metrics measured on them."""
