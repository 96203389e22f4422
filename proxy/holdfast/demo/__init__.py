"""`holdfast demo`: a node at work, shown on a terminal.

child    nodes as child processes
pull     an image pulled over plain HTTP, every byte checked
seed     an image put into a store
lines    what to write into Docker's, containerd's and Podman's configuration
show     tables and sentences
"""
