"""llama.cpp through llama-cpp-python's low-level bindings, one worker process per model."""
