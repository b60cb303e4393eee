"""`python -m vllm_mlx` is `vllm-mlx`."""

from vllm_mlx.cli import main

if __name__ == "__main__":
    main()
