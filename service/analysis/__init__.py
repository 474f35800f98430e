"""Questions about all of a collection: clusterings, duplicates, outliers, the vote of neighbours and how often it is right.

It is given points, vectors and a way to ask for neighbours; it knows the store and the index, and neither the library nor HTTP.
"""
