"""What a run would take, before it starts: memory, messages and time, and whether the cluster's nodes hold it."""
