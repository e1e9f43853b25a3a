"""Prediction of files of any length: batch after batch, in order, in bounded memory, resumed after a kill."""
