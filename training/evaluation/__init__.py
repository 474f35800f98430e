"""Scores of an artifact on labelled images: what `dinodex eval` measures, from vectors that are kept between its runs.

It knows artifacts and vectors, and nothing of a run: of training it shares the errors and the seeds. No run knows it.
"""

from training.evaluation.evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
