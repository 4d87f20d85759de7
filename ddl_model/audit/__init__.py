"""Audits: what the gates of several checkpoints do on a data set, and whether arms differ by more than seeds do."""
