"""Many models behind one endpoint: which a request names, which replica has it, and what is unloaded for it."""
