"""Attention over the block pool, and the one seam through which models reach it."""
