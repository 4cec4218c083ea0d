"""A simulator of endpoints: arrivals replayed against replicas, batching, balancing and a policy of scaling."""
