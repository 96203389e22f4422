"""Holdfast beside its peers. One file a question; `make bench` asks them all.

Every figure is taken on one machine in one run, the subjects taking turns (A B C A B C …), and compared as
the median of the ratios of the turns: what else the machine did meanwhile touched all of them alike.
"""
