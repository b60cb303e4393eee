"""An inference server on MLX, composed from configuration."""

__version__ = "0.1.0"
