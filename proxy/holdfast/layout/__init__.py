"""Images in files: OCI image layouts (image-spec, image-layout.md), as a directory or a tar.

layout_files   reading and writing one
image_export   images of a store, written into one
image_import   images of one, pushed to a node
"""
