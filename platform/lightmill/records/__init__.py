"""Frozen records that cross a process or a disk: specifications, versions, jobs, endpoints."""
