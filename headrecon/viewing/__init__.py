"""Heads and avatars in a browser on this machine: `headrecon view`. Needs the extra `view` (viser)."""
