"""Trained factors and what is made of them with NumPy alone: top-K lists, fold-in, baselines, recommendations."""
