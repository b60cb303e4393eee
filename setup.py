from setuptools import find_packages, setup

packages = [*find_packages(include=["vllm_mlx", "vllm_mlx.*"]), "vllm_mlx.conf"]
setup(packages=packages, package_dir={"vllm_mlx.conf": "conf"})
