"""One replica whose model is divided over several processes: the ranks, the group that drives them, Ray's actors."""
