# SPDX-License-Identifier: Apache-2.0
"""Directions, and the keys of a parameter's specification."""

IN = "in"
INOUT = "inout"
Type = "type"
