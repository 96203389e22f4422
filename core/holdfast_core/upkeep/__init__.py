"""What keeps a store in order while it serves.

fsck           says what is wrong, and changes nothing
garbage        removes bytes that no repository links, and files that were kept for a while
index_repair   gives a damaged record its value back
store_upkeep   does both to an open store, and what else its writer does from time to time
"""
