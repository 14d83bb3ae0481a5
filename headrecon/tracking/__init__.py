"""A video to a track: the stages of `headrecon.track` in their order, and the files of its output folder."""
