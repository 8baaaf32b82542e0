"""Evol-Instruct: operators, schedules, elimination, deduplication, decontamination, and the one loop that runs them."""

from rleif.evolution.decontaminate import Decontaminator
from rleif.evolution.dedup import Exact, MaskDigits
from rleif.evolution.downward import DownwardEvolution
from rleif.evolution.evolve import EvolInstruct
from rleif.evolution.files import EvolveArguments, evolve_files
from rleif.evolution.operators import MATH_DOWN, MATH_UP, load_operator, render
from rleif.evolution.pool import Pool
from rleif.evolution.schedules import Schedule, repeat, wizardmath_v1, wizardmath_v3
from rleif.evolution.upward import UpwardEvolution

__all__ = [
    "MATH_DOWN",
    "MATH_UP",
    "Decontaminator",
    "DownwardEvolution",
    "EvolInstruct",
    "EvolveArguments",
    "Exact",
    "MaskDigits",
    "Pool",
    "Schedule",
    "UpwardEvolution",
    "evolve_files",
    "load_operator",
    "render",
    "repeat",
    "wizardmath_v1",
    "wizardmath_v3",
]
