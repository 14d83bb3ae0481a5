"""A head that takes another's motion: mesh heads and avatars alike, as clips and as still pictures."""
