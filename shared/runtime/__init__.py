"""The Trio plumbing that both processes need."""
