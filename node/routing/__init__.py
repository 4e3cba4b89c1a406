"""Which node answers a request, how a peer is asked, and what happens when it is lost."""
