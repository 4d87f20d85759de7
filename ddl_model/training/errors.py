"""What can go wrong before and during training, said for people."""


class DataError(Exception):
    """A data set is missing, damaged or unfit; the message says what to do."""


class TrainingError(Exception):
    """A run cannot start or go on; the message says why and what to do."""
