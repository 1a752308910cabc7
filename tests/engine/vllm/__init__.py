"""The vLLM engine: its pure parts everywhere, the engine itself where the tests are live."""
