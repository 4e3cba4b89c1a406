"""Models of the Hugging Face Hub: found, downloaded in a process of their own, and kept."""
