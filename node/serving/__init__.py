"""Which request is answered when: models, queues, lanes, admission and drain."""
