"""How a step is computed: one protocol, one file a way of computing."""
