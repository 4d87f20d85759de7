"""Signatures of bundles: who exported them, and that nobody has changed them since. The format is minisign's."""
