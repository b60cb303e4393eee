"""Descriptions of wire formats, as data. How they are read is not here."""
