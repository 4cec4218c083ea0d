"""Graphs of endpoints: what they take and answer, worked out from their members' signatures, and how they are run."""
