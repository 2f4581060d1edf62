# SPDX-License-Identifier: Apache-2.0
"""Stands in for PyCOMPSs, whose runtime no package registry has, on the way that arguments take there.

Written after what its worker does, not copied from it: values travel as files with four digits in front
that say how they were serialised; NumPy's own arrays, and nothing else, go by numpy.save; executors are
forked before the first task, live long, and run with -O; a file's name says nothing about its content;
data are told apart by id(); argument names come from inspect.getfullargspec; the worker looks the task's
name up in its module and calls what is there.
"""
