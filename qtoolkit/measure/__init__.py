"""Measure a model's footprint, peaks of memory and bytes on disk, and describe this machine."""
