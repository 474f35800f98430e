"""Questions about all of a collection: clusterings, duplicates, outliers, the vote of neighbours and how often it is right.

It is given points, vectors and a way to ask for neighbours; it knows the store and the index, and neither the library nor HTTP.

Tested elsewhere: `centroids` in tests/service/analysis/test_kmeans.py and tests/service/analysis/test_hdbscan.py;
`grouping` in tests/service/analysis/test_clusterings.py and tests/service/analysis/test_members.py; `hdbscan_worker` in
tests/service/analysis/test_hdbscan.py; `point_set` in
tests/service/analysis/test_outliers.py and tests/service/analysis/test_duplicates.py; `progress` in
tests/service/analysis/test_clusterings.py; `voting` in tests/service/analysis/test_classification.py and
tests/system/test_one_vote.py.
"""
