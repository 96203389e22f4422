"""Holdfast: a connected registry.

wire/      bytes and grammar: no sockets, no event loop
endpoint/  a request in, a reply out: one file a noun
server     sockets, time-outs, back-pressure
keeper/    the one writer: what a miss gets
fill/      blobs on their way in
parent/    the parent registry's client
process/   supervisor, keeper and worker processes
cli/       the command line
"""
