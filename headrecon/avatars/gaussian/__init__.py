"""Avatars of Gaussians that ride on the posed head and on a sheet for the shoulders."""
