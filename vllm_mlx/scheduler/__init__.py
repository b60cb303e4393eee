"""Who runs next. Decisions over host integers; no arrays, no clock, no threads."""
