"""Heads that are learned from footage and moved by head parameters, in any representation."""
