"""Copy of the local database to cloud, and proof that the two are equal.

Two databases are equal when, for each month and each load package that local has finished, cloud has the same number
of rows with the same keys and the same content, and no rows that belong to no finished package. Packages that cloud
extracted itself remain and are counted separately. The result is a union in which a trade may come from both sides; it
is one trade as long as its newest version has the same content on both.
"""
