"""Markup of model families: text a model wrote -> content, reasoning, tool calls.

Pure text. Token ids, sampling, prompts and vendors' JSON are not here.
"""
