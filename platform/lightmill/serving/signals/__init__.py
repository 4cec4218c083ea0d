"""What an endpoint tells of its requests: metrics, access log, traces, and a masked sample of predictions.

On the request's path nothing is formatted, written or sent: numbers are added up and tuples queued, and one thread of
the replica does the rest. Every queue is bounded; what does not fit is dropped and counted.
"""
