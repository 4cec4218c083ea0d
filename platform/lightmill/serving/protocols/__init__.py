"""Protocols of inference, one adapter a file: each reads a request from bytes and writes an answer to bytes. Pure."""
