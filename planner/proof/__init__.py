"""The proof: scalers on a fluid cluster under recorded load, beside a clairvoyant bound."""
