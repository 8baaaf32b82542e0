"""Teachers make and judge data: `base` holds the protocol, `symbolic` computes the verbs exactly."""

from rleif.teachers.base import Draft, NoEvolution, Operator, Ranking, Teacher

__all__ = ["Draft", "NoEvolution", "Operator", "Ranking", "Teacher"]
