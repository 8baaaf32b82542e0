"""All stages from one configuration, in one run directory. `rleif run` is this; `rleif <stage>` runs one stage."""
