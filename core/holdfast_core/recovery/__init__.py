"""What brings a store back: offline work on a damaged one, and its copies.

store_repair  a store mended in place
compact       the index without its free pages
backup        a copy of a store, and a store of a copy
rebuild       a new index from the old one, the journal and the files: the order of the work
index_merge   which record comes from the old index and which from the journal
old_index     the index that is replaced, as far as it can be read
lost_records  what could not be brought back, in words
"""
