"""Mutation testing: make lines of the suite wrong, one at a time, and see whether a test notices."""
