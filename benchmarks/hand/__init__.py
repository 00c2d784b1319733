"""What claiming by the handful must not cost: a part a file, each gives a finding."""
