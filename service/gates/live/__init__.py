"""Gate values of ordinary traffic: sampled, counted into histograms, kept by time; never a value of one request."""
