"""Shared nouns: what is asked (Generation), what comes back (Delta), what serves (ModelCard).

No MLX, no HTTP, nothing else of ours.
"""
