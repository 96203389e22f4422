"""The offline rebuild: a new index from the old one, the journal and the files.

rebuild       the order of the work
index_merge   which record comes from the old index and which from the journal
old_index     the index that is replaced, as far as it can be read
lost_records  what could not be brought back, in words
"""
