"""Read and check the files of a checkpoint: safetensors, a folder, the header of a `.gguf` file, configs."""
