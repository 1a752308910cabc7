"""The codec: what is written is read back, and nothing a peer sends raises anything but `WireError`."""
