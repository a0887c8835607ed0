"""Measurements of snapfs: ``python -m benchmarks`` runs all, ``python -m benchmarks.NAME`` one.

One file a question, on the shared ``harness``.  What is compared is measured side by side in one run, in turns, so
that whatever else the machine does falls on both; results are medians and ratios.
"""
