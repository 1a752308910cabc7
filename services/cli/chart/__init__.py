"""The Helm chart as code sees it: what its values may be, and the files that say so."""
