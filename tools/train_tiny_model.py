#!/usr/bin/env python3
"""Train the tiny chat model that the default local pool serves (serving/tiny_model).

A Qwen2-shaped causal language model of about half a million parameters, with its own byte-level BPE tokenizer and
ChatML template, learns to answer a support text with `{"intent": ..., "sensitivity": ...}`. It exists so that a real
engine gives a checkable answer on a machine without a GPU or a model hub. The texts come from a grammar of our own;
every fifth of its lines is held out of training and used for the figures printed at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # same merges on every machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

Chat = list[dict[str, str]]
BATCH = 32  # conversations
GRAMMAR = Path(__file__).resolve().parent.parent / "serving" / "tiny_model" / "grammar.txt"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PREFIXES = ["classify: "] * 6 + ["Classify: ", "classify this: ", "Classify the following text: ", "classify\n"]
LEVELS = ("public", "internal", "personal")
SLOT_LEVEL = {"NAME": 2, "EMAIL": 2, "PHONE": 2, "ACCT": 2, "HOST": 1, "SECRET": 1, "ROADMAP": 1}


class Writer:
    """Writes labelled texts from the grammar; `held_out` selects the fifth of it that training never sees."""

    def __init__(self, grammar: Path, seed: int, held_out: bool) -> None:
        self.rng = random.Random(seed)
        self.held_out = held_out
        self.sections: dict[str, list[str]] = {}
        for block in re.split(r"^\[", grammar.read_text("utf-8"), flags=re.MULTILINE)[1:]:
            name, *lines = block.strip().splitlines()
            whole = name.startswith("words") or len(lines) < 5
            kept = [line for at, line in enumerate(lines) if whole or (at % 5 == 4) == held_out]
            self.sections[name.rstrip("]")] = kept
        self.intents = [name.removeprefix("intent ") for name in self.sections if name.startswith("intent ")]

    def _pick(self, section: str) -> str:
        return self.rng.choice(self.sections[section])

    def _made_up(self) -> str:
        rng = self.rng
        return "".join(rng.choice("bdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 4)))

    def _fill(self, slot: str) -> str:
        """A filler: a digit, made-up words (so that shape counts, not only known words), or a line of the grammar."""
        if slot == "D":
            return self.rng.choice("0123456789")
        if slot in ("MADE", "TITLE"):
            return self._made_up().title() if slot == "TITLE" else self._made_up()
        if slot == "NOISE":
            return " ".join(self.rng.choice(("{MADE}", "{WORD}", "{WORD}")) for _ in range(self.rng.randint(1, 6)))
        return self._pick(f"filler {slot}")

    def _expand(self, template: str) -> tuple[str, int]:
        """The template with choices and slots resolved, and the highest level of the slots used."""
        level = 0
        while match := re.search(r"\(([^()]*\|[^()]*)\)|\{([A-Z]+)\}", template):
            choices, slot = match.groups()
            level = max(level, SLOT_LEVEL.get(slot, 0))
            new = self._fill(slot) if slot else self.rng.choice(choices.split("|"))
            template = template[: match.start()] + new + template[match.end() :]
        return " ".join(template.split()), level

    def text(self) -> tuple[str, str]:
        """A user's text and the exact JSON answer. Personal outranks internal, which outranks public."""
        rng = self.rng
        intent = rng.choice(self.intents)
        templates = [self._pick(f"intent {intent}")]
        if not self.held_out and rng.random() < 0.35:
            cues = [self._pick(f"words {intent}") for _ in range(rng.randint(1, 3))]
            templates = [rng.choice((" ", " {NOISE} ", " {STOP} ")).join(["{STOP}", *cues, "{NOISE}"])]
        levels = [0] * (rng.randint(8, 45) if rng.random() < 0.04 else rng.choice((0, 0, 1, 1, 2, 3)))
        levels += [1, 2] if rng.random() < 0.1 else [level for level in (rng.randrange(3),) if level]
        for level in levels:
            kind = "words" if not self.held_out and rng.random() < 0.35 else "clause"
            templates.append(self._pick(f"{kind} {LEVELS[level]}"))
        if rng.random() < 0.7:
            rng.shuffle(templates)
        parts = [self._expand(template) for template in templates]
        capital = rng.random() < 0.6
        clauses = [part[0].upper() + part[1:] if capital else part for part, _ in parts]
        text = rng.choice((". ", ". ", ", ", " ", " - ", "! ", "\n")).join(clauses)
        text = rng.choice((*[text] * 7, text.lower(), text.lower(), text.upper())) + rng.choice((".", "", "", "!", "?"))
        return text, json.dumps({"intent": intent, "sensitivity": LEVELS[max(level for _, level in parts)]})

    def _worn(self, text: str) -> str:
        """The text with words mistyped, swapped for noise or lost, in half the texts; numbers and addresses stay."""
        rng = self.rng
        if self.held_out or rng.random() < 0.5:
            return text
        words = []
        for word in text.split(" "):
            cut = rng.randrange(len(word) + 1)
            others = (word[:cut] + word[cut + 1 :], self._made_up(), self._pick("filler WORD"), "")
            worn = word.isalpha() and rng.random() < 0.17
            words.append(rng.choice(others) if worn else word)
        return " ".join(word for word in words if word)

    def chat(self, prefix_share: float = 0.5) -> Chat:
        """A conversation whose every user turn is a text and every assistant turn its answer."""
        rng = self.rng
        chat = [{"role": "system", "content": self._pick("system")}] if rng.random() < 0.4 else []
        prefix = rng.choice(PREFIXES) if rng.random() < prefix_share else ""
        for _ in range(2 if rng.random() < 0.08 else 1):
            text, reply = self.text()
            chat.append({"role": "user", "content": prefix + self._worn(text)})
            chat.append({"role": "assistant", "content": reply})
        return chat


def build_tokenizer(writer: Writer) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer learnt from the writer's texts: any UTF-8 text has tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1536,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator((m["role"] + "\n" + m["content"] for _ in range(12000) for m in writer.chat()), trainer)
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    more = {"chat_template": CHAT_TEMPLATE, "model_max_length": 2048, "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names, **more)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """About 0.54M parameters; heads are 32 wide, the least that vLLM's CPU attention takes."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    width = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2, "initializer_range": 0.05}
    rest = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "tie_word_embeddings": True}
    model = Qwen2ForCausalLM(Qwen2Config(**width, **heads, **rest, **ids))
    # One candidate only: engines that take their sampling defaults from this file answer greedily too.
    ends = [ids["eos_token_id"], ids["bos_token_id"]]
    model.generation_config = GenerationConfig(do_sample=True, top_k=1, **{**ids, "eos_token_id": ends})
    return model


def encode(chat: Chat, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and the target at each: -100 save in answers and their <|im_end|>."""
    ids: list[int] = []
    targets: list[int] = []
    for message in chat:
        pieces = [f"<|im_start|>{message['role']}\n", message["content"] + "<|im_end|>", "\n"]
        head, body, tail = tokenizer(pieces).input_ids
        ids += head + body + tail
        spoken = body if message["role"] == "assistant" else [-100] * len(body)
        targets += [-100] * len(head) + spoken + [-100] * len(tail)
    return ids, targets


def train(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, writer: Writer, steps: int) -> None:
    """AdamW with warm-up and cosine decay; the loss is over answers only, batches are of similar length."""
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.5)
    pending: list[list[tuple[list[int], list[int]]]] = []
    count = TextColumn("{task.completed}/{task.total} steps, loss {task.fields[loss]:.3f}")
    model.train()
    with Progress(TextColumn("training"), BarColumn(), count, TimeRemainingColumn()) as progress:
        task = progress.add_task("training", total=steps, loss=math.nan)
        for step in range(steps):
            if not pending:
                pool = [encode(writer.chat(), tokenizer) for _ in range(16 * BATCH)]
                pool.sort(key=lambda pair: len(pair[0]))
                pending = [pool[at : at + BATCH] for at in range(0, len(pool), BATCH)]
                writer.rng.shuffle(pending)
            pairs = pending.pop()
            width = len(pairs[-1][0])
            ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row, _ in pairs])
            targets = torch.tensor([row + [-100] * (width - len(row)) for _, row in pairs])[:, 1:]
            decay = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 40) * decay
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            spoken = targets >= 0
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[spoken]), targets[spoken])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update(task, advance=1, loss=loss.item())
    model.eval()


def evaluate(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: list[Chat]) -> dict[str, float]:
    """Shares (0 to 1) of greedy last answers: right intent, right sensitivity, valid JSON, ended by <|im_end|>."""
    right = {"intent": 0, "sensitivity": 0, "valid JSON": 0, "ended": 0}
    for at in range(0, len(chats), 100):
        part = chats[at : at + 100]
        prompts = tokenizer.apply_chat_template([c[:-1] for c in part], tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False, top_k=None)
        replies = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :])
        for chat, reply in zip(part, replies, strict=True):
            expected = json.loads(chat[-1]["content"])
            body, end, _ = reply.partition("<|im_end|>")
            right["ended"] += bool(end)
            try:
                got = json.loads(body)
                right["valid JSON"] += set(got) == set(expected)
                right["intent"] += got["intent"] == expected["intent"]
                right["sensitivity"] += got["sensitivity"] == expected["sensitivity"]
            except (ValueError, TypeError, KeyError):
                continue
    return {key: value / len(chats) for key, value in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model to")
    parser.add_argument("--seed", type=int, default=7, help="seed of texts and weights (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1200, help="training steps (default: %(default)s)")
    parser.add_argument("--grammar", type=Path, default=GRAMMAR, help="the templates (default: the model's own)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    started = time.monotonic()
    tokenizer = build_tokenizer(Writer(options.grammar, options.seed, held_out=False))
    model = build_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens")
    train(model, tokenizer, Writer(options.grammar, options.seed + 1, held_out=False), options.steps)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"trained in {time.monotonic() - started:.0f} s")
    for name, share in (("with the prefix", 1.0), ("without", 0.0)):
        writer = Writer(options.grammar, options.seed + 2, held_out=True)
        shares = evaluate(model, tokenizer, [writer.chat(share) for _ in range(1000)])
        print(f"held out, {name}: " + ", ".join(f"{key} {value:.1%}" for key, value in shares.items()))


if __name__ == "__main__":
    main()
