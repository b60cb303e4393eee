"""Where keys and values live: block ids and who holds them, and the arrays behind them."""
