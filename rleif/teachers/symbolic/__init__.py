"""A world of GSM8K-style word problems with ground truth, and the teacher that computes its verbs exactly."""

from rleif.teachers.symbolic.faults import CORRUPTIONS, corrupt
from rleif.teachers.symbolic.sample import SIZES, Sizes, sample_problem
from rleif.teachers.symbolic.teacher import SymbolicTeacher

__all__ = ["CORRUPTIONS", "SIZES", "Sizes", "SymbolicTeacher", "corrupt", "sample_problem"]
