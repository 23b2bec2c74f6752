"""Read text to calibrate with and to measure quality on, and cut its tokens into samples and windows."""
