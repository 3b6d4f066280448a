"""The analyses, one file each: start (hub), local (node), combine (hub)."""
