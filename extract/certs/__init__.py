"""Certificates of the edge: an authority for each environment, what it signs, and how long all of it is valid.

`authority` makes and signs, `store` keeps the files, `expiry` tells the days left; `command` is `tape certs`.
"""
