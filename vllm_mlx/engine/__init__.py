"""Owns the MLX thread and time: takes generations, runs steps, gives back deltas."""
