"""Candidates and how better ones are found."""
