"""Requests shared among versions: who answers, who is asked beside, how answers compare, what is counted."""
