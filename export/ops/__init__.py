"""The custom operators of exported graphs: their contracts, their plain bodies, and how torch's become them."""
