"""Every way in which a prompt can be served: who may, when, and what it costs."""
