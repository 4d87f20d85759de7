"""What `manifest.json` may say, part by part; `service.bundle` puts it together and reads it."""
