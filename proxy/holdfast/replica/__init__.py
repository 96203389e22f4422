"""The node as a replica of what it wants: carries out what `holdfast.sync` decides, in the keeper. Downwards only, from
parents that are polled; [docs/sync.md](../../../docs/sync.md) says what that means."""
