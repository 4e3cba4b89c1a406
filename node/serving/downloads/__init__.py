"""Models of the Hugging Face Hub: found, downloaded in a separate process, and kept."""
