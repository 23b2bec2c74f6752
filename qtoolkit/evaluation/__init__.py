"""Measure every method and format alike: perplexity, divergence from the base model, and speed."""
