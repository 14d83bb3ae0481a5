"""Gaussians in files of other tools: one module a format, each writes and reads. See docs/formats.md, "Splats".

In memory they are `structures.Gaussians` in head space: metres, +y up, the face looks along +z. Every writer takes
torch tensors or numpy arrays and writes the file whole or not at all; every reader returns numpy arrays (colours as
spherical harmonics) and checks each length against the file before it allocates.
"""
