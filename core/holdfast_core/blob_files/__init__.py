"""Files of blobs: complete, growing, and on their way in.

blob_reader   bytes of a stored blob, compared with their hash before they leave
page_cache    whether the pages that were hashed are still the ones in memory
uncached_read what the disk has of a file, past the page cache
disk_check    the same, beside what was written
fill_file     the growing file of a fill, and how far it has come
upload_files  staging files of clients' uploads
file_work     work on files that ends in a commit, one piece at a time for a digest
"""
