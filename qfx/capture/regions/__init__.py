"""Regions: which parts of a model that can't be captured whole are captured, each by itself."""
