"""Run by the Python that vLLM is installed for: a GGUF file into safetensors in bfloat16.

    python dequantise.py FOLDER FILE OUT

One line of JSON on stdout for each step. It imports nothing of freehold: its environment has none.
"""

import json
import sys


def say(step: str) -> None:
    print(json.dumps({"step": step}), flush=True)


def main(folder: str, file: str, out: str) -> None:
    say("loading the converter")
    import torch  # noqa: PLC0415 - after a sign of life: it takes seconds
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    say("reading the tokeniser")
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    say("computing the weights")
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.bfloat16)
    # They are ordinary weights now, whatever they were.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    wrong = {str(each.dtype) for each in model.parameters()} - {"torch.bfloat16"}
    if wrong:
        raise SystemExit(f"some weights were not converted: {', '.join(sorted(wrong))}")
    say("writing")
    model.save_pretrained(out, max_shard_size="4GB")
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
