"""Folders and splits of data sets, one data set a file.

A layout is a function ``layout(root, **options) -> Splits`` named like its data set. It reads names, and pixels only
where a rule of the data set depends on them. A packed video (``000.mp4`` for ``000``, see :mod:`src.data.packing`)
replaces any folder of frames. A module's ``EXPECTED`` describes a complete copy, for ``task=doctor``.
"""
