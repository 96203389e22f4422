"""Telling others what happened here: webhooks, and a connected registry's notices to its parent. Both read the event
log by a cursor of their own, so that nothing is forgotten while a receiver is away."""
