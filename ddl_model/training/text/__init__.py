"""From text in many forms to token shards: documents, byte-level BPE, held-out split. `ddl-data` is its command."""
