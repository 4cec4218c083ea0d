"""The peers of the serving benchmarks: the same networks, each served as that peer's documentation has it.

They run in environments of their own and import nothing of ours but the encoder's network, which needs torch alone. All
serve one process of one thread, without access logs; each takes and answers what comes natural to it.
"""
