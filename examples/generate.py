"""Write text with a quantized model as anybody can: plain transformers, without qtoolkit.

Run it with `python examples/generate.py FOLDER QUESTION`.
"""

import logging
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar


def main(folder: str, question: str) -> None:
    """Print the model's answer to a question."""
    disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at each layer and token of an int8 model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=40, do_sample=False)  # [1, prompt + answer]
    answer = tokens[0, inputs["input_ids"].shape[1] :]  # [answer]
    print(tokenizer.decode(answer, skip_special_tokens=True).strip())


if __name__ == "__main__":
    main(*sys.argv[1:])
