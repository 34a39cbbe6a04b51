"""Steering a field: guidance takes a field and gives a field."""
from rheos.guidance.classifier_free import ClassifierFree, classifier_free

__all__ = ["ClassifierFree", "classifier_free"]
