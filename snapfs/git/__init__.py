"""Binding to git repositories: their facts, the hooks, and what each hook does.  The only package that runs
git."""
