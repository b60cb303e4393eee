"""How one call is written, one state machine a kind of body; not which model writes which."""
