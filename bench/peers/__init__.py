"""Other people's queues, each behind the same few calls (:class:`bench.queues.Queue`)."""
