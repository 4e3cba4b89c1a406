"""What each event means in metrics: plain functions from an event to the samples that it moves.

A sample is a family, its label values and a number, which a counter adds, a gauge takes on and a
histogram observes. A batch has many events of the frequent kinds. Their rules return a column of
numbers for each series, so that labels are built and looked up once for all of them.
"""
