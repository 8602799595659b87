"""One notation for references and answers: Unicode becomes LaTeX, commands lose their variants and decoration.

Everything here changes how an answer is written, never what it means. Each step is one line of a table, with a reason
where it is not obvious; `tests/verifier/test_verifier.py` has a case for every step.
"""

import functools
import re
import unicodedata

from dgpo.verifier.answer import MAX_DEPTH

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₓ", "0123456789+-=()nx", strict=True))
_SYMBOLS = """
    ×times ·cdot ⋅cdot ∙cdot ±pm ∓mp ≤leq ≥geq ⩽leq ⩾geq ≠neq ≈approx ∈in ≡equiv ∪cup ∩cap ∅emptyset ∞infty ∠angle
    △triangle ⟨langle ⟩rangle …ldots ⋯ldots ∛cbrt ∴therefore ⇒Rightarrow αalpha βbeta γgamma δdelta εepsilon θtheta
    λlambda μmu πpi ρrho σsigma τtau φphi ϕphi ωomega ΔDelta ΩOmega ℏhbar
"""
_SYMBOLS = {word[0]: rf"\{word[1:]} " for word in _SYMBOLS.split()}
_SYMBOLS |= {c: rf"\mathbb{{{unicodedata.normalize('NFKC', c)}}}" for c in "ℝℤℕℚℂ"} | dict.fromkeys("−–—‐‑", "-")
_SYMBOLS |= {"°": r"^\circ ", "º": r"^\circ ", "′": "'", "″": "''", "‘": "'", "’": "'", "∥": r"\|", "‖": r"\|"}
_SYMBOLS |= dict.fromkeys("÷∕⁄", "/") | {"∗": "*", "。": ".", "，": ",", "、": ",", "和": " and ", "或": " or "}
_SYMBOLS |= dict.fromkeys('“”"`', "")
_SYMBOLS_TABLE = str.maketrans(_SYMBOLS)

_END = "(?![a-zA-Z])"  # of a command's name
_GROUP = r"(?:\{(?:[^{}]|\{[^{}]*\})*\}|[0-9a-zA-Z])"
_TEXT = "text(?:rm|bf|it|sf|tt|normal|up)?|math(?:rm|sf|it|normal|bf)|operatorname|mbox|hbox|bf|rm|boldsymbol|bm"
# the command that replaces others, and the others
_COMMANDS = r"""
    \frac dfrac tfrac cfrac nicefrac sfrac; \binom dbinom tbinom; \{ lbrace; \} rbrace; | lvert rvert vert; [ lbrack
    ] rbrack; \leq~ leqslant leqq le; \geq~ geqslant geqq ge; \neq~ ne; < lt; > gt; \emptyset~ varnothing O
    : colon; √ surd; \ldots~ dots cdots dotsc dotsb; \epsilon varepsilon; \phi varphi; \theta vartheta; \rho varrho
    ~ displaystyle textstyle scriptstyle scriptscriptstyle tiny scriptsize footnotesize small normalsize
    ~ large Large LARGE huge Huge thinspace medspace thickspace
"""
_COMMANDS = {
    n: by.replace("~", " ") for by, *names in map(str.split, re.split(r"[;\n]", _COMMANDS.strip())) for n in names
}
# every name of a function and its one command; the hyperbolic functions that are read as reciprocals of others
_RECIPROCALS = {"sech": "cosh", "csch": "sinh", "coth": "tanh"}
_RECIPROCALS |= {f"ar{name}": f"ar{other}" for name, other in _RECIPROCALS.items()}
_FUNCTIONS = {name: rf"\{name} " for name in ("log", "ln", "exp", "gcd", "lcm")} | {"lg": r"\log_{10} "}
for _name, *_others in ("sin",), ("cos",), ("tan", "tg"), ("csc", "cosec"), ("cot", "ctg", "cotan"), ("sec",):
    for _other in (_name, *_others):
        _FUNCTIONS |= {_other: rf"\{_name} ", f"arc{_other}": rf"\arc{_name} ", f"a{_other}": rf"\arc{_name} "}
for _other in ("sinh", "cosh", "tanh", "sech", "csch", "coth", "cosech"):
    _name = _other.replace("cosec", "csc")
    _FUNCTIONS |= {_other: rf"\{_name} "} | {f"{arc}{_other}": rf"\ar{_name} " for arc in ("arc", "ar", "a")}
_FUNCTIONS = dict(sorted(_FUNCTIONS.items(), key=lambda item: -len(item[0])))
_NAMES = "|".join(name for name in _FUNCTIONS if name != "sec")  # as text it is a unit
_CURRENCIES = {"Rs": "₹", "INR": "₹", "USD": "$", "EUR": "€", "GBP": "£"}
# words before an answer that add nothing
_LEAD_IN = (
    r"(?i:(?:the )?(?:final )?answer(?: is)?\s*:?|(?:exactly|equals|year)(?= )"
    r"|(?:option|choice)(?=\s*\(?[A-J]\b))\s*|答案[是为:：]?\s*"
)
_REAL = r"(?:\s*\\in\s*\\mathbb\s*\{?R\}?)?"
_EVERY = "(?:all|any|every|each)(?: real)?(?: numbers?| values? of)?|(?:some|any) constants?"
_COUNTERS = "个|人|元|只|本|张|次|种|块|天|年|岁|小时|分钟|秒|(?:平方|立方)?(?:千|厘|毫)?米|公里|千?克|公斤|升"

# (pattern, replacement), in this order
_REWRITES = [
    (rf"\\({'|'.join(_COMMANDS)}){_END}", lambda m: _COMMANDS[m[1]]),
    (r"\\(?:m?left|m?right|[bB]igg?[lrm]?|middle)(?=\s*(?:[\[\]()|./]|\\[{}|a-z]))\s*\.?", ""),
    (rf"\\(?:operatorname|mathop|mathrm|text)\*?\s*\{{\s*({_NAMES})\s*\}}", lambda m: _FUNCTIONS[m[1]]),
    (r"\\(?:operatorname|mathop)\*?\s*\{\s*(sec|min|max|floor|ceil)\s*\}", r"\\\1 "),  # as text, these are units
    (rf"\\({'|'.join(_FUNCTIONS)}){_END}", lambda m: _FUNCTIONS[m[1]]),
    (r"\\log\s*_\s*(?:\{\s*e\s*\}|e(?![a-zA-Z]))", r"\\ln "),
    (r"\\log\s*_\s*([0-9a-zA-Z])", r"\\log_{\1}"),
    (
        r"\\(?:mathbf|boldsymbol|bm)\s*\{([a-zA-Z])\}|\\(?:vec|hat)\s*\{?\s*(?:\\text\{)?\s*\\?([ijk])(?:math)?\s*\}*",
        r"\1\2",
    ),
    (rf"\\(?:{_TEXT})\s*\{{", r"\\text{"),
    (r"\{\s*\\(?:rm|bf|it)\s+([^{}]*)\}", r"\\text{\1}"),
    (r"\\text\{([eid])\}", r"\1"),
    (r"^(?:\\text\{)?\s*(Rs|INR|USD|EUR|GBP)\.?\s*\}?\s*(?=[0-9.])", lambda m: _CURRENCIES[m[1]]),
    (r"\\begin\{(align(?:ed)?\*?|gathered|split|equation\*?)\}(.*)\\end\{\1\}", lambda m: _lines(m[2])),
    (r"\\(?:tag|label)\*?\s*\{[^{}]*\}|\\(?:blacksquare|qed|square|checkmark)\s*$", ""),
    (rf"^(?:\s|\\(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow){_END})+", ""),
    (rf"[\s,(]*(?:\\text\{{[\s,(]*for (?:{_EVERY})\s*\}}|\\forall{_END})\s*[a-z]?{_REAL}[\s).]*$", ""),
    (rf"(^|\\text\{{)\s*(?:{_LEAD_IN})", r"\1"),
    (
        r"^\\text\{(?![^{}]*(?:\b(?:not|or|and|wrong)\b|n't|[0-9]))[^{}]* (?:is|are|equals|be)\s*:?\s*\}(?=.)",
        "",
    ),  # the area is
    (r"\\text\{\s*\}", " "),
    (r"\\(?:textcolor|color)\s*\{[a-zA-Z]+\}|\\underline(?=\s*\{)", ""),
    (r"\\not\s*=|!=", r"\\neq "),
    (r"([<>])=", lambda m: r"\leq " if m[1] == "<" else r"\geq "),
    (r"\.\.\.", r"\\ldots "),
    (r"\\mathbb\s+([A-Z])", r"\\mathbb{\1}"),
    (r"\{\s*\\(?:circ|degree)\s*\}", r"\\circ "),
    (r"\^\s*\{?\s*\\text\{\s*o\s*\}\s*\}?", r"^\\circ "),
    (r"(?<=[0-9])\s*\^\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),  # 5th
    (r"(\\text\{[^{}]*[0-9]|[a-zA-Z]{3} [0-9]+)(?:st|nd|rd|th)(?![a-zA-Z])", r"\1"),  # 2nd alone may be a product
    (r"\s*\^\s*\{\s*((?:\\prime\s*)+)\}|\s*\^\s*(\\prime)(?![a-z])", lambda m: "'" * m[0].count("prime")),
    (rf"\s*\^\s*\\circ(?:\s*\{{\s*\}}|{_END})|\\(?:text)?degree{_END}", r"^\\circ "),
    (r"\\%", "%"),
    (r"\{\s*([,:])\s*\}|\\text\{\s*,\s*\}(?=[0-9]{3})", lambda m: m[1] or ","),
    (r"(?<!\\)\$|\\\(|\\\)|(?<!\\)\\\[|(?<!\\)\\\]", ""),  # math mode; `\\[` is a line break of a matrix
    (r"\\\$\s*(?=[0-9.]|\\frac)", "$"),  # dollars
    (r"\\\$", ""),
    (r"(?<=[0-9])\s*(?:(?<!\\)\\[,!;: ]|,\s*\\!)\s*(?=[0-9]{3}(?![0-9]))", ","),  # 1\,234\,567 and 11,\!111
    (r"(?<!\\)\\[,!;: ]|~|\\q?quad", " "),
    (r"\\(?:hspace|phantom)\s*(?:\{[^{}]*\}|.)", " "),
    (r"(?<!\\)\{\s*([0-9]{1,3}(?:,[0-9]{3})+)\s*\}", lambda m: "{" + m[1].replace(",", "") + "}"),  # \frac{1}{1,000}
    (r"\\(frac|binom)\s*(\\[a-zA-Z]+|[0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\\1{\2}{\3}"),  # \frac12, \binom 5 2
    (r"\\(frac|binom)\s*([0-9a-zA-Z])\s*(?=\{)", r"\\\1{\2}"),
    (r"(\\(?:frac|binom)\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
    (r"\\(hat|bar|vec|tilde)\s+([a-zA-Z])" + _END, r"\\\1{\2}"),
    (rf"(?<=[a-zA-Z])(\s*\^\s*{_GROUP})(\s*_\s*{_GROUP})", r"\2\1"),  # x^2_1
    (r"(?<![0-9a-zA-Z])\^\s*\{?([0-9]+)\}?\s*/\s*_\s*\{?([0-9]+)\}?", r"\\frac{\1}{\2}"),
    (r"\\(?:bmod|mod)\s*(?=[0-9])", r"\\mod "),
    (r"\{\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*\}", r"\\binom{\1}{\2}"),
    (r"\\pmod\s*([0-9a-z])", r"\\pmod{\1}"),
    (r"\(\s*(?:\\text\{\s*)?\\?b?mod\s*\}?\s*([0-9a-z]+)\s*\)", r"\\pmod{\1}"),
    (r"\*\*([^*]+)\*\*$", r"\1"),
    (r"\\text\{\s*(?:rem(?:ainder)?\.?|r)(?: of| is)?\s*\}(?=\s*[0-9])", r"\\text{ R }"),
    (r"(?<=[0-9])\s*(?:\\text\{)?\s*\\Omega\s*\}?$", r"\\text{ ohm}"),
    (r"\\mu\s*\}?\s*\\text\{\s*([mgsLFCAV])\s*\}$", r"\\text{ µ\1}"),
    (r"(?<=[0-9])\s*度$", r"^\\circ "),
    (rf"(?<=[0-9])\s*({_COUNTERS})$", r"\\text{ \1}"),
    (r"(?<=[0-9])\s*(?:\\text\{\s*to\s*\}|(?<= )to )\s*(?=[0-9])", ":"),  # 3 to 5, a ratio
    (r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)"),
    (r"(?<![a-zA-Z])(?:\{\s*\})?[_^]\s*\{?([0-9]+)\}?\s*([CP])\s*_\s*\{?([0-9]+)\}?$", r"\2(\1,\3)"),  # {}_5C_2
    (r"^(?:\\text\{)?([CPA])\}?\s*_\s*\{?([0-9]+)\}?\s*\^\s*\{?([0-9]+)\}?$", r"\1(\2,\3)"),
    (r"(?:\\text\{\s*cis\s*\}|(?<![a-zA-Z])\\?cis(?![a-zA-Z]))([^+,;=]+)", r"(\\cos(\1)+i\\sin(\1))"),
    (r"^\](?=[^\[\]()]+,[^\[\]()]+[\[\])]$)", "("),  # ]1,3[ as (1,3)
    (r"(?<=[^\[\]()])\[$", ")"),
    (r"\s+", " "),
]
_REWRITES = [(re.compile(what), by) for what, by in _REWRITES]


# What a program prints, as LaTeX. After a letter it is part of a word.
_LIBRARY = r"(?:(?:np|numpy|math|sympy)\.)?"
_CODE_FUNCTION = re.compile(
    rf"(?<![\\a-zA-Z]){_LIBRARY}({'|'.join(_FUNCTIONS)})(?=\s*[(^_0-9]|\s+(?:\\|[a-zA-Z](?![a-zA-Z])))"
)
_CODE_NUMBER = re.compile(r"(?<![\\a-zA-Z0-9.])([0-9]+\.?[0-9]*|\.[0-9]+)[eE]([+-]?[0-9]{1,6})(?!\.?[0-9a-zA-Z])")
_CODE_WRAP = re.compile(  # commands that enclose an argument: in parentheses, or the next character
    rf"(?<![\\a-zA-Z]){_LIBRARY}(sqrt|floor|ceil|abs|cbrt)\s*(?=\()|\\(sqrt|floor|ceil)\s*(?=\()|\\(cbrt)\s*(?=[(0-9a-z])"
    rf"|(√)\s*(?=[(0-9a-z\\])|(\^)\s*(?=\()|\\({'|'.join(_RECIPROCALS)})\s*(\^\s*(?:\{{[^{{}}]*\}}|[0-9a-z]))?\s*(?=[(0-9a-zA-Z\\])"
)
_WRAPPINGS = {
    "abs": "|%s|",
    "cbrt": r"\sqrt[3]{%s}",
    "floor": r"\lfloor %s\rfloor ",
    "ceil": r"\lceil %s\rceil ",
    "^": "^{%s}",
}
_CODE_WORDS = [
    (re.compile(r"(?<![\\a-zA-Z])(?:binom(?:ial)?|nCr|(?:math\.)?comb)\(([^(),]+),([^(),]+)\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<![\\a-zA-Z])(?:np|numpy|math|sympy)\.(?=pi|e\b|inf)"), ""),
    (re.compile(r"(?<![\\a-zA-Z{])pi(?![a-zA-Z}])"), r"\\pi "),
    (re.compile(r"(?<![\\a-zA-Z{])(?:infinity|infty|inf|oo)(?![a-zA-Z}])"), r"\\infty "),
    (re.compile(r"\^\s*(-\s*(?:[0-9]+|[a-zA-Z]))"), r"^{\1}"),
    (re.compile(r"(?<=[0-9a-zA-Z)}])\s*\*\s*(?=[0-9a-zA-Z({\\])"), r" \\cdot "),
    (re.compile(r"(?<![0-9a-zA-Z])([0-9]+)\.(?=\s*[/*+)\-^]|$)"), r"\1"),  # -1./3
]
_PLAIN = re.compile(r"-?[0-9]+")
_TRAILING = re.compile(r"(?:\s|[.,;:!]|\\\\|\\(?=$))+$")


@functools.lru_cache(maxsize=4096)  # all answers to a problem share its reference
def normalise(text: str) -> str:
    """`text` in the one notation."""
    if _PLAIN.fullmatch(text):
        return text
    text = "".join(_character(c) for c in _scripts(_vulgar(text)))
    text = unicodedata.normalize("NFKC", text.translate(_SYMBOLS_TABLE))
    for what, by in _REWRITES:
        text = what.sub(by, text)
    if not text.lstrip().startswith(r"\text"):
        text = _code(text)
    text = text.strip().removeprefix("=")
    if text.endswith("!") and not text.endswith(("! !", " !")):  # a factorial
        return _TRAILING.sub("", text[:-1]) + "!" if text[-2:-1] not in "!" else text
    return _TRAILING.sub("", text)


def hopeless(text: str) -> bool:
    """Whether nothing can be read in it: it has no letter or digit, or brackets nested deeper than anyone writes."""
    if not any(c.isalnum() for c in text) and r"\{" not in text:
        return True
    depth = deepest = 0
    for c in text:
        depth += (c in "{([") - (c in "})]")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


def _character(c: str) -> str:
    if unicodedata.category(c) == "Nd":
        return str(unicodedata.digit(c))
    return "" if unicodedata.category(c) in ("Cf", "Cc") and c not in "\n\t" else c


def _vulgar(text: str) -> str:
    """½ and 2½ to fractions; NFKC alone would make 2½ into 21/2."""
    for c in set(text):
        if unicodedata.category(c) == "No" and "⁄" in (plain := unicodedata.normalize("NFKC", c)):
            top, _, bottom = plain.partition("⁄")
            text = text.replace(c, rf"\frac{{{top}}}{{{bottom}}}")
    return text


def _scripts(text: str) -> str:
    """x² to x^{2} and a₁ to a_{1}; NFKC alone would make them x2 and a1."""
    for mark, table in (("^", _SUPERSCRIPTS), ("_", _SUBSCRIPTS)):
        if any(c in table for c in text):
            text = re.sub(
                f"[{''.join(table)}]+", lambda m, k=mark, t=table: f"{k}{{{''.join(t[c] for c in m[0])}}}", text
            )
    return text


def _lines(text: str) -> str:
    """The lines of an alignment as a list; a line that begins with = continues the one before."""
    return "; ".join(re.sub(r"\\\\\s*&?\s*=", "=", text).replace("&", "").split(r"\\"))


def _code(text: str) -> str:
    text = _CODE_FUNCTION.sub(lambda m: _FUNCTIONS[m[1]], text.replace("**", "^"))
    text = _CODE_NUMBER.sub(lambda m: rf"{m[1]} \times 10^{{{int(m[2])}}}", text)
    while match := _CODE_WRAP.search(text):
        name = next(filter(None, match.groups()[:6]))
        start, end = match.end(), _argument_end(text, match.end(), r"[0-9]*" if name in _RECIPROCALS else "")
        inner = text[start + 1 : end - 1] if text[start] == "(" else text[start:end]
        text = text[: match.start()] + _wrapped(name, match[7] or "", inner) + text[end:]
    for what, by in _CODE_WORDS:
        text = what.sub(by, text)
    return text


def _wrapped(name: str, power: str, inner: str) -> str:
    if name not in _RECIPROCALS:
        return _WRAPPINGS.get(name, r"\sqrt{%s}") % inner
    inverse, other = name.startswith("ar") or "-" in power, _RECIPROCALS[name]
    if inverse:
        return rf"\ar{other.removeprefix('ar')}(\frac{{1}}{{{inner}}})"
    return rf"(\frac{{1}}{{\{other}({inner})}}){power}"


def _argument_end(text: str, start: int, factor: str) -> int:
    """Where an argument ends: after its closing parenthesis, else after its number, letter or command."""
    if text[start] != "(":
        found = re.compile(factor + r"(?:\\[a-zA-Z]+|[a-zA-Z])|[0-9]+|.").match(text, start)
        return found.end() if found else start
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)
