"""LaTeX as text that a terminal can show: Unicode for what has a sign, the source for the rest."""

from __future__ import annotations

import re

_SYMBOLS = dict(
    pair.split("=", 1)
    for pair in (
        "alpha=α beta=β gamma=γ delta=δ epsilon=ε varepsilon=ε zeta=ζ eta=η theta=θ vartheta=ϑ iota=ι kappa=κ lambda=λ "
        "mu=μ nu=ν xi=ξ pi=π rho=ρ sigma=σ tau=τ upsilon=υ phi=φ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ "
        "Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Upsilon=Υ Phi=Φ Psi=Ψ Omega=Ω hbar=ℏ ell=ℓ partial=∂ nabla=∇ infty=∞ emptyset=∅ "
        "sum=∑ prod=∏ int=∫ iint=∬ oint=∮ times=× cdot=· div=÷ pm=± mp=∓ ast=∗ circ=∘ bullet=• oplus=⊕ otimes=⊗ "
        "leq=≤ le=≤ geq=≥ ge=≥ neq=≠ ne=≠ approx=≈ sim=∼ simeq=≃ cong=≅ equiv=≡ propto=∝ ll=≪ gg=≫ "
        "to=→ rightarrow=→ leftarrow=← leftrightarrow=↔ Rightarrow=⇒ Leftarrow=⇐ Leftrightarrow=⇔ implies=⟹ iff=⟺ "
        "longrightarrow=⟶ rightleftharpoons=⇌ uparrow=↑ downarrow=↓ mapsto=↦ in=∈ notin=∉ ni=∋ subset=⊂ subseteq=⊆ "
        "supset=⊃ supseteq=⊇ cup=∪ cap=∩ setminus=∖ forall=∀ exists=∃ neg=¬ land=∧ wedge=∧ lor=∨ vee=∨ perp=⊥ "
        "parallel=∥ angle=∠ degree=° dagger=† prime=′ ldots=… dots=… cdots=⋯ vdots=⋮ langle=⟨ rangle=⟩ lceil=⌈ rceil=⌉ "
        "lfloor=⌊ rfloor=⌋ Re=ℜ Im=ℑ aleph=ℵ therefore=∴ because=∵ star=⋆ square=□ triangle=△"
    ).split()
)
_SYMBOLS |= {"quad": "  ", "qquad": "    ", "lVert": "‖", "rVert": "‖", "|": "‖", ",": " ", ";": " ", ":": " ", "!": ""}
_SYMBOLS |= {sign: sign for sign in "%$&#_{} "}
_FUNCTIONS = frozenset(
    (
        "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup inf det dim ker gcd arg"
    ).split()
)
# Their argument is shown as it is.
_PLAIN = frozenset(
    "text textbf textit textrm mathrm mathbf mathit mathsf mathtt mathcal operatorname boxed bm boldsymbol ce".split()
)
_IGNORED = frozenset("left right big Big bigg Bigg displaystyle textstyle limits nolimits nonumber".split())
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "overline": "\u0305", "vec": "\u20d7", "dot": "\u0307", "ddot": "\u0308"}
_ACCENTS |= {"tilde": "\u0303"}
_LETTERS = {"R": "ℝ", "N": "ℕ", "Z": "ℤ", "Q": "ℚ", "C": "ℂ", "E": "𝔼", "P": "ℙ"}
_RAISED = dict(
    zip("0123456789+-=()niabcdefghjklmoprstuvwxyz′", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱᵃᵇᶜᵈᵉᶠᵍʰʲᵏˡᵐᵒᵖʳˢᵗᵘᵛʷˣʸᶻ′", strict=True)
)
_LOWERED = dict(zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_TOKEN = re.compile(r"\\[A-Za-z]+\*?|\\.|\s+|.", re.DOTALL)
# Nobody nests deeper, and a hostile answer must not exhaust the stack.
_MAX_DEPTH = 20


def latex_to_text(source: str) -> str:
    """`\\frac{1}{2}\\alpha^2` -> `1/2α²`. What is not known stays as it was written."""
    text = _Reader(source).read()
    return re.sub(r" ?\n ?", "\n", re.sub(r"[ \t]+", " ", text)).strip()


def raised(text: str) -> str:
    """As a superscript: `2` -> `²`; `^(...)` where a sign is missing."""
    return _script(text, _RAISED, "^")


def lowered(text: str) -> str:
    """As a subscript."""
    return _script(text, _LOWERED, "_")


def _script(text: str, signs: dict[str, str], mark: str) -> str:
    if text in ("∘", "°"):
        return "°"
    if text and all(character in signs for character in text):
        return "".join(signs[character] for character in text)
    return f"{mark}{text}" if len(text) <= 1 else f"{mark}({text})"


class _Reader:
    """Reads tokens from left to right; a group in braces is read by itself."""

    def __init__(self, source: str) -> None:
        self._tokens = _TOKEN.findall(source)
        self._place = 0
        self._depth = 0

    def read(self, until: str = "") -> str:
        out = []
        while self._place < len(self._tokens):
            token = self._tokens[self._place]
            self._place += 1
            if token == until:
                break
            out.append(self._one(token))
        return "".join(out)

    def _argument(self) -> str:
        """The next group or the next sign; nothing at the end."""
        while self._place < len(self._tokens) and self._tokens[self._place].isspace():
            self._place += 1
        if self._place == len(self._tokens):
            return ""
        token = self._tokens[self._place]
        self._place += 1
        return self._one(token).strip()

    def _one(self, token: str) -> str:
        if self._depth > _MAX_DEPTH:
            return token
        self._depth += 1
        try:
            if token == "{":
                return self.read("}")
            if token in ("^", "_"):
                return (raised if token == "^" else lowered)(self._argument())
            if token in ("&", "~"):
                return " "
            return self._command(token[1:]) if token[0] == "\\" and len(token) > 1 else token
        finally:
            self._depth -= 1

    def _command(self, name: str) -> str:
        if name == "\\":
            return "\n"
        if name in ("frac", "dfrac", "tfrac"):
            return f"{_grouped(self._argument())}/{_grouped(self._argument())}"
        if name == "sqrt":
            return "√" + _grouped(self._argument())
        if name in ("begin", "end"):
            self._argument()
            return ""
        if name in _PLAIN:
            return self._argument()
        if name == "mathbb":
            letter = self._argument()
            return _LETTERS.get(letter, letter)
        if name in _ACCENTS:
            return self._argument() + _ACCENTS[name]
        if name in _FUNCTIONS:
            return name
        return "" if name in _IGNORED else _SYMBOLS.get(name, "\\" + name)


def _grouped(text: str) -> str:
    return text if re.fullmatch(r"√?[\w.′²³]*", text) else f"({text})"
