"""Scoring a model on data sets, so that it can be stopped and go on."""

from keras_visor.evaluation.answer_log import AnswerLog
from keras_visor.evaluation.scoring import answer_questions
from keras_visor.evaluation.scoring import summarize

__all__ = ["AnswerLog", "answer_questions", "summarize"]
