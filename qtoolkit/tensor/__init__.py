"""Pure functions on tensors: grouping, integer codes, packing, products, divergences."""
