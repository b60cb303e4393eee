"""The size of a prefill tile, which kernels compute by and scheduling and reuse align to."""

# Query rows per product on a CPU: a tile's scores stay in cache and tiles above the diagonal are
# never computed. Tiles are aligned to absolute positions, so chunking does not change a result.
TILE_TOKENS = 64
