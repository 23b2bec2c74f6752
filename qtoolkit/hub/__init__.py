"""Find models on the Hugging Face Hub and in its local cache, download them, and keep private copies there."""
