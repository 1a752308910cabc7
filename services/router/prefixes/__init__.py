"""Who holds which KV blocks: the prefix index, kept from workers' KV events."""
