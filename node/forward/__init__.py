"""Requests between nodes: which node answers, how it is asked, and what happens when it is lost."""
