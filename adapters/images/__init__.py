"""Labelled images: folders and ``.npz`` files, decoded for what a model takes."""
