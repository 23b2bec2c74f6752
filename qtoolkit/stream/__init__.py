"""Load, quantize and save models one weight or block at a time; results get their name when they are complete."""
