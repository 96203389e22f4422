"""Requests that go out: one endpoint, its addresses, logins, redirects and retries."""
