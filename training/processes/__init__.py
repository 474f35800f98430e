"""Processes of a run: which launcher started them and where they meet, how they hand images over, how they are stopped, how one fails.

It knows the errors and how images are loaded, and nothing of the method.
"""
