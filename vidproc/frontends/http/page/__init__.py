"""The page: a document at ``/``, and the files that it loads.

The files are `static/`, all of it, below one name that is the hash of their content. So a browser
may keep them for ever, they import each other by relative paths, and no proxy can mix two versions.
Nothing is loaded from elsewhere, and no URL begins with a slash: a proxy may put a prefix before
all of it.
"""
