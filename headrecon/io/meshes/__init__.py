"""Mesh files: rigged glTF (`glb`), OBJ with texture (`obj`), PLY with vertex colours (`ply`)."""
