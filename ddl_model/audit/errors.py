"""What can be wrong with an audit."""


class AuditError(Exception):
    """The audit cannot be made; the message says why and what to do."""
