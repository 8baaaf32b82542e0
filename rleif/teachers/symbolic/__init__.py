"""A world of GSM8K-style word problems with ground truth, and the teacher that computes its verbs exactly."""

from rleif.teachers.symbolic.defects import DEFECTS, defective
from rleif.teachers.symbolic.faults import CORRUPTIONS, MISREAD, corrupt
from rleif.teachers.symbolic.reader import Reading, analyse, read
from rleif.teachers.symbolic.sample import NUMBERS, SIZES, Sizes, sample_problem, sizes_of
from rleif.teachers.symbolic.teacher import SymbolicTeacher

__all__ = [
    "CORRUPTIONS",
    "DEFECTS",
    "MISREAD",
    "NUMBERS",
    "SIZES",
    "Reading",
    "Sizes",
    "SymbolicTeacher",
    "analyse",
    "corrupt",
    "defective",
    "read",
    "sample_problem",
    "sizes_of",
]
