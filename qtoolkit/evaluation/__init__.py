"""One ruler for every method and format: what a model lost when it was made small."""
