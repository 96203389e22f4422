"""The source made worse on purpose, in a copy, to see that tests notice. `defence_run` (`make defences`) takes out what
stands against each threat of docs/security.md, as a list says; `module_run` (`make mutate`) makes every small change of
the modules that promises hang on."""
