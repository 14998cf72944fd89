"""What `interns1 verify` reads and looks at: one text of each kind that a model is given, and pictures of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

# Name -> text. Every text is spelled so that no tokenizer has to guess: no lone surrogates, no control characters.
TEXTS = {
    "English prose": (
        "Water expands when it freezes, which is why ice floats on a lake in winter and fish survive below it. "
        "The density of liquid water is greatest near 4 °C; between 4 and 0 °C, hydrogen bonds push the molecules "
        'apart again. "That is unusual," she said, "but it isn\'t unique: silicon, gallium and bismuth do it too."'
    ),
    "Chinese prose": (
        "水结冰时体积会膨胀，所以冬天的湖面上结冰而湖底的鱼仍能存活。液态水在约4摄氏度时密度最大；"
        "继续冷却时，氢键使分子之间的距离重新变大。“这很少见，”她说，“但并不是唯一的例子。”"
    ),
    "code": (
        "def mean(values: list[float]) -> float:\n"
        '    """The arithmetic mean."""\n'
        "    if not values:\n"
        "        raise ValueError('no values')\n"
        "    return sum(values) / len(values)\n\n\n"
        'for i in range(0, 100, 10):\n\tprint(f"{i:>3}: {mean([i, i + 1e-3])}")  # 12345 != 12_345\n'
    ),
    "chat markup": (
        "<|im_start|>system\nYou are a chemist.<|im_end|>\n<|im_start|>user\nWhat is NaCl?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nTable salt.\n</think>\n\nSodium chloride.<|im_end|>\n"
    ),
    "tool markup": (
        '<tool_call>\n{"name": "weigh", "arguments": {"formula": "H2O"}}\n</tool_call><|im_end|>\n'
        '<|action_start|><|plugin|>{"name": "weigh"}<|action_end|>'
    ),
    "tagged SMILES": (
        "Aspirin is <SMILES>CC(=O)Oc1ccccc1C(=O)O</SMILES> and caffeine <SMILES>Cn1cnc2c1c(=O)n(C)c(=O)n2C</SMILES>."
    ),
    "untagged SMILES": (
        "Compare CC(=O)OC1=CC=CC=C1C(=O)O with CN1C=NC2=C1C(=O)N(C(=O)N2C)C, 再比较 C[C@H](N)C(=O)O.[Na+]，and CCO."
    ),
    "SELFIES": "Benzene in SELFIES: <SELFIES>[C][=C][C][=C][C][=C][Ring1][=Branch1]</SELFIES>; also [C][C][O].",
    "IUPAC name": "<IUPAC>2-acetyloxybenzoic acid</IUPAC> and <IUPAC>1,3,7-trimethylpurine-2,6-dione</IUPAC>",
    "FASTA": (
        "<FASTA>MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ</FASTA> is tagged; insulin's B chain is not: "
        "FVNQHLCGSHLVEALYLVCGERGFFYTPKT, and GIVEQCCTSICSLYQLENYCN is too short to be found."
    ),
    "formula": "<MOLFORMULA>C9H8O4</MOLFORMULA> weighs 180.16 g/mol; C8H10N4O2 weighs 194.19.",
    "broken markup": (
        "<SMILES>CCO</FASTA> <SMILES> C1=CC=CC=C1 <IUPAC>ethanol</SMILES></IUPAC> </SMILES> <SMIL <|im_end <|im_start|"
        " <think></think></think> <IMG_CONTEXT> <img></img> <FASTA></FASTA> 12 ⟨x⟩"
    ),
    "many scripts": (
        "naïve café, Ångström, Δx ≥ ½ħ, ﬁne; ελληνικά, русский, العربية, हिन्दी, 日本語, 한국어, 🧪🤖\n\n  \t x"
    ),
}

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a careful scientist."},
    {"role": "user", "content": "Why does ice float? Answer in one sentence."},
    {"role": "assistant", "content": "Because it is less dense than water."},
    {"role": "user", "content": "And <SMILES>CCO</SMILES>, 乙醇?"},
]
QUESTION = "What does this picture show?"


def drawings(side: int) -> dict[str, Image]:
    """Pictures for tiles of `side` pixels: one that is a tile, and two that take several and must be stretched."""
    sizes = {"drawing, one tile": (side, side), "drawing, wide": (2 * side + 9, side + 5)}
    sizes["drawing, tall"] = (side - 3, 3 * side - 20)
    return {name: draw(width, height) for name, (width, height) in sizes.items()}


def draw(width: int, height: int) -> Image:
    """Shapes, fine lines and a slope of colours, different in every part of the picture."""
    from PIL import Image, ImageDraw

    slopes = [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90)]
    picture = Image.merge("RGB", [slope.resize((width, height)) for slope in slopes])
    pen = ImageDraw.Draw(picture)
    for step in range(0, width, 7):
        pen.line((step, 0, width - step, height), fill=(step * 5 % 256, step * 3 % 256, 255 - step % 256))
    pen.ellipse((width * 0.1, height * 0.1, width * 0.4, height * 0.45), fill=(222, 40, 36))
    pen.rectangle((width * 0.55, height * 0.2, width * 0.9, height * 0.4), fill=(36, 70, 220))
    pen.polygon([(width * 0.2, height * 0.9), (width * 0.5, height * 0.55), (width * 0.6, height * 0.95)], "black")
    pen.line((width * 0.6, height * 0.6, width * 0.95, height * 0.9), fill=(240, 208, 30), width=3)
    return picture
