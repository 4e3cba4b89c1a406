"""What each event means in metrics: plain functions from an event to the samples that it moves.

A sample is a family, its label values and a number, which a counter adds, a gauge takes on and a
histogram observes. Observations are a list of numbers for one histogram.
"""
