"""Decides what should run and makes it so: jobs and endpoint reconciliation. Ray only in its adapters."""
