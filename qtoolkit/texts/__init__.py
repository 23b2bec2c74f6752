"""Text to calibrate with and to measure quality on: read, told apart, cut into samples and windows."""
