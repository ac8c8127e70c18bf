"""All SQL: the durable queue and what is known of the cards."""
