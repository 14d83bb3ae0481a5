"""What a head looks like: a texture in the model's UVs, projected from photos and completed where none sees it."""
