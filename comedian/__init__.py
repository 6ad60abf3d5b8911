"""
The pantry of the five scripts: what they take from the shelf and do not teach. Frames and labels on
disk, image operations, kernels, the metric, the plumbing of a run.

Nothing in this folder imports a file above it, so that a reader of `stage1_spatial.py` goes down
into it or not, and never in circles.
"""
