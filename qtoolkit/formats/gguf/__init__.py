"""The format GGUF: one `.gguf` file that llama.cpp, Ollama and LM Studio run."""
