"""TFDS builders of public data sets, from their files as published.

Each module has one builder and needs the extra `keras-visor[datasets]`.
Importing it registers the data set with TFDS. Nothing is downloaded: most of
the sets ask for a licence to be accepted first. `MANUAL_DOWNLOAD_INSTRUCTIONS`
of a builder says which files to fetch and where to put them.
"""
