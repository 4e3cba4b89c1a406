"""Routing: which node answers a request, how peers are asked, and what happens if one is lost."""
