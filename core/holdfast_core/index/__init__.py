"""The LMDB environment, and what reads it.

lmdb_index   opened once a process, refused when it is not safe to map, read in short transactions
row_snapshot the rows that one answer was made of
page_reader  read page by page, without LMDB, when it is damaged
list_pages   lists, a bounded number of records at a time
"""
