"""Backups of the raw database, and restores that are proven equal.

A backup is a set of sealed files (`seal`) in a folder or an S3 prefix: one per table and month, and a manifest that is
written last. Files are named by the digest of their rows, so a month that has not changed is referenced by the next
backup instead of being written again. A restore inserts the files into an empty server and compares every month with the
digests of the manifest: number of rows, keys and content, as `tape push` compares two databases.
"""
