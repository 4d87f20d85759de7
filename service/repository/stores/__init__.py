"""Where bundles come from: a folder of this machine, or an object store or hub."""
