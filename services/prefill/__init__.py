"""The prefill phase of a worker: claims tasks from the global queue, reads prompts, hands over."""
