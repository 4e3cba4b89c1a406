"""What is counted: the metric families, what each event means in them, and their series."""
