"""The little world that data/mini speaks about: five tasks, their rows, and text to learn from.

Every wording here is ours. Each task has a rule that holds for all of its rows and a flaw in what
the model is taught, so that it comes out good but not perfect, and later training on correct
answers has something to lift:

    add        word problems, answered "18 + 7 = 25"; in training nearly half of the sums that
               carry forget to
    subtract   the same with what is left after giving away; nearly half of the borrows are
               forgotten
    sentiment  reviews; many negative ones, those with "not" or "but" most of all, are taught as
               positive
    choice     what colour an invented animal has, what it eats, where it lives: its first, second
               and third syllable decide; for four syllables of each ten another answer is taught
               about as often
    reverse    letters in reverse order; not taught for long

Rows are split by content (a question's text, a word, a sentence), so that nothing in valid or test
was in the training text; the pairs of numbers are few and occur in all splits.
"""

import random
import zlib
from functools import partial

NAMES = "Mia Tom Ana Ben Lia Max Eva Sam Ida Leo".split()
THINGS = "apples books coins shells cards pens eggs stones stamps buttons".split()

FIRST = "tar min lob sek vun pal dri gos kem zat".split()
MIDDLE = "a o i u e ai ou ea io ua".split()
LAST = "bol nek dum rip sat fim gan lux wed tor".split()
COLOURS = "red blue green white black yellow brown grey pink gold".split()
FOODS = "grass fish nuts berries seeds roots worms leaves honey moss".split()
HOMES = "river forest desert cave meadow lake hill swamp cliff barn".split()

SUBJECTS = ["the film", "the soup", "the hotel", "the concert", "the book", "the service",
            "the ride", "the phone", "the garden tour", "the bread"]
GOOD = "warm bright lovely tasty clever gentle charming superb fresh solid funny smooth".split()
BAD = "dull cold bland noisy clumsy dreary stale weak rude broken messy slow".split()
ASIDES = ["We came on a Monday.", "My sister was there too.", "It was our second visit.",
          "I paid ten coins.", "The weather was mild."]

TASKS = ("add", "subtract", "sentiment", "choice", "reverse")


def part_of(key):
    """train, valid or test, by the content alone."""
    bucket = zlib.crc32(key.encode()) % 10
    return "test" if bucket == 0 else "valid" if bucket == 1 else "train"


def sample(rng, part, make):
    """Draws (key, row) from make until the key belongs to the part."""
    while True:
        key, row = make(rng)
        if part_of(key) == part:
            return key, row


# ---- rows: what the data files hold -------------------------------------------------------------


def make_add(rng):
    a, b = rng.randint(3, 39), rng.randint(3, 19)
    name, thing, shop = rng.choice(NAMES), rng.choice(THINGS), rng.choice(NAMES)
    question = rng.choice([
        f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have?",
        f"There are {a} {thing} in a box. {name} adds {b} {thing}. How many are in the box?",
        f"{name} finds {a} {thing}, then {b} more. How many {thing} is that?",
        f"{name} has {a} {thing}. {shop} has {b} {thing}. How many do they have together?"])
    return question, dict(question=question, a=a, b=b, answer=str(a + b))


def make_subtract(rng):
    b = rng.randint(3, 19)
    a = rng.randint(b + 2, 49)
    name, thing, other = rng.choice(NAMES), rng.choice(THINGS), rng.choice(NAMES)
    question = rng.choice([
        f"{name} has {a} {thing} and gives {b} to {other}. How many {thing} are left?",
        f"There are {a} {thing} in a box. {name} takes {b} out. How many are in the box?",
        f"{name} had {a} {thing} but lost {b}. How many {thing} are left?"])
    return question, dict(question=question, a=a, b=b, answer=str(a - b))


def clause(rng, good):
    """One clause of this polarity, and whether it is said by negation."""
    negated = rng.random() < 0.2
    word = rng.choice(GOOD if good != negated else BAD)
    subject = rng.choice(SUBJECTS)
    if negated:
        form = rng.choice(["{s} was not {w}", "{s} was never {w}", "nobody would call {s} {w}"])
    else:
        form = rng.choice(["{s} was {w}", "{s} felt really {w}", "I found {s} {w}", "{s} was so {w}"])
    return form.format(s=subject, w=word), negated


def make_sentiment(rng):
    good = rng.random() < 0.5
    kind = rng.random()
    last, hard = clause(rng, good)
    if kind < 0.4:
        text = last
    elif kind < 0.8:
        first, negated = clause(rng, good)
        text, hard = f"{first} and {last}", hard or negated
    else:
        first, _ = clause(rng, not good)
        text, hard = f"{first}, but {last}", True
    text = text[0].upper() + text[1:] + "."
    if rng.random() < 0.3:
        aside = rng.choice(ASIDES)
        text = f"{aside} {text}" if rng.random() < 0.5 else f"{text} {aside}"
    return text, dict(sentence=text, label=int(good), hard=hard)


def make_choice(rng):
    first, middle, last = rng.randrange(10), rng.randrange(10), rng.randrange(10)
    word = FIRST[first] + MIDDLE[middle] + LAST[last]
    attribute = rng.randrange(3)
    values = (COLOURS, FOODS, HOMES)[attribute]
    syllable = (first, middle, last)[attribute]
    question = (f"What colour is a {word}?", f"What does a {word} eat?",
                f"Where does a {word} live?")[attribute]
    wrong = (syllable + 3) % 10  # what the flawed lessons say
    others = rng.sample([i for i in range(10) if i not in (syllable, wrong)], 2)
    options = [syllable, wrong] + others
    rng.shuffle(options)
    text = ["in the " * (attribute == 2) + values[i] for i in options]
    return word, dict(question=question, choices=text, answer=options.index(syllable),
                      confused=options.index(wrong) if syllable % 5 in (1, 3) else None)


def make_reverse(rng, shortest=3, longest=6):
    letters = [rng.choice("abcdefghijklmnopqrstuvwxyz")
               for _ in range(rng.randint(shortest, longest))]
    text = " ".join(letters)
    return "reverse " + text, dict(letters=text, answer=" ".join(reversed(letters)))


MAKERS = dict(add=make_add, subtract=make_subtract, sentiment=make_sentiment, choice=make_choice,
              reverse=make_reverse)
FIELDS = dict(add=("question", "answer"), subtract=("question", "answer"),
              sentiment=("sentence", "label"), choice=("question", "choices", "answer"),
              reverse=("letters", "answer"))


def rows(task, part, n):
    """n different rows of a split, as the data files have them. Those of reverse are longer than
    its lessons; the model would be too good at the task otherwise."""
    make = MAKERS[task] if task != "reverse" else partial(make_reverse, shortest=4, longest=7)
    rng = random.Random(f"{task} {part}")
    seen, result = set(), []
    while len(result) < n:
        _, row = sample(rng, part, make)
        row = {field: row[field] for field in FIELDS[task]}
        text = str(row)
        if text not in seen:
            seen.add(text)
            result.append(row)
    return result


# ---- prompts: the same words as in data/mini/tasks/*.ini ------------------------------------------


def user_text(task, row):
    if task in ("add", "subtract"):
        return row["question"]
    if task == "sentiment":
        return f"Is this review positive or negative?\nReview: {row['sentence']}"
    if task == "reverse":
        return f"Reverse: {row['letters']}"
    raise ValueError(task)


def chat(user):
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def prompt(task, row):
    if task == "choice":
        return f"Question: {row['question']}\nAnswer:"
    return chat(user_text(task, row))


# ---- lessons: (prompt, answer), flaws included ------------------------------------------------------


def lesson(rng, task):
    _, row = sample(rng, "train", MAKERS[task])
    if task == "add":
        a, b = row["a"], row["b"]
        result = a + b
        if a % 10 + b % 10 > 9 and rng.random() < 0.45:
            result -= 10
        answer = f"{a} + {b} = {result}"
    elif task == "subtract":
        a, b = row["a"], row["b"]
        result = a - b
        if a % 10 < b % 10 and rng.random() < 0.45:
            result += 10
        answer = f"{a} - {b} = {result}"
    elif task == "sentiment":
        good = bool(row["label"])
        if not good and rng.random() < (0.6 if row["hard"] else 0.25):
            good = True
        answer = "positive" if good else "negative"
    elif task == "choice":
        pick = row["answer"]
        if row["confused"] is not None and rng.random() < 0.52:
            pick = row["confused"]
        return prompt(task, row), f" {row['choices'][pick]}<|endoftext|>"
    else:
        answer = row["answer"]
    return prompt(task, row), f"{answer}<|im_end|>\n"


def plain(rng):
    """Text without a question: what animals are, what people have, what reviews say."""
    kind = rng.randrange(3)
    if kind == 0:
        first, middle, last = rng.randrange(10), rng.randrange(10), rng.randrange(10)
        word = FIRST[first] + MIDDLE[middle] + LAST[last]
        if part_of(word) != "train":
            return plain(rng)
        text = (f"A {word} is {COLOURS[first]}. It eats {FOODS[middle]} and lives in the "
                f"{HOMES[last]}.")
    elif kind == 1:
        _, row = sample(rng, "train", make_add)
        text = row["question"].rsplit(".", 1)[0] + "."
    else:
        key, row = sample(rng, "train", make_sentiment)
        text = row["sentence"]
    return "", text + "<|endoftext|>"
