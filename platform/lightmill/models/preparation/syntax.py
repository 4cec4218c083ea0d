"""The expression language of `filter` and `derive`: from text to a tree. Nothing is evaluated as Python.

    expression := or;  or := and ("or" and)*;  and := not ("and" not)*;  not := "not" not | comparison
    comparison := sum [("=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">=") sum
                       | "is" ["not"] "null" | ["not"] "in" "(" literal ("," literal)* ")"
                       | ["not"] "between" sum "and" sum]
    sum := product (("+" | "-") product)*;  product := sign (("*" | "/" | "%") sign)*;  sign := ("-" | "+") sign | atom
    atom := number | 'text' | true | false | null | name | "name" | function "(" expression, ... ")" | "(" or ")"

Words are recognised in any case; a quote inside quotes is written twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lightmill.errors import RequestError
from lightmill.records.preparation import EXPRESSION_MAX

DEPTH_MAX = 50
NODES_MAX = 2000
HEIGHT_MAX = 100
LITERALS_MAX = 1000

# Function: least and most number of arguments.
FUNCTIONS = {
    "lower": (1, 1),
    "upper": (1, 1),
    "length": (1, 1),
    "abs": (1, 1),
    "log": (1, 1),
    "exp": (1, 1),
    "coalesce": (1, 50),
    "if": (3, 3),
    "contains": (2, 2),
    "startswith": (2, 2),
    "is_null": (1, 1),
}
_WORDS = {"and", "or", "not", "is", "in", "null", "true", "false", "between"}
_COMPARISONS = {"=": "=", "==": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<text>'(?:[^']|'')*')
      | "(?P<quoted>(?:[^"]|"")+)"
      | (?P<name>[^\W\d]\w*)
      | (?P<symbol><=|>=|==|!=|<>|[=<>+\-*/%(),]))""",
    re.VERBOSE,
)

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """A constant."""

    at: int
    value: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The value of a column in the row."""

    at: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An operator or function and its arguments.

    `at` is its place in the text, from 0; `height` the number of operations from here down to a leaf.
    """

    at: int
    name: str
    arguments: tuple[Node, ...]
    height: int


Node = Literal | Column | Call


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    value: str
    at: int


def refusal(text: str, at: int, problem: str) -> RequestError:
    """Return an error that shows where in an expression the problem is."""
    start = max(at - 30, 0)
    excerpt = ("..." if start else "") + text[start:at] + ">>>" + text[at : at + 30]
    return RequestError(f"Expression, position {at + 1}: {problem}, here: {excerpt}")


def parse(text: str) -> Node:
    """Return the tree of an expression.

    Raises:
        RequestError: It is not in the language, or longer or deeper than its limits; the message has the position.
    """
    if len(text) > EXPRESSION_MAX:
        raise RequestError(f"An expression has {len(text):,} characters; the limit is {EXPRESSION_MAX:,}.")
    return _Parser(text).whole()


def columns_in(node: Node) -> frozenset[str]:
    """Return the names of the columns that an expression reads."""
    match node:
        case Literal():
            return frozenset()
        case Column():
            return frozenset({node.name})
        case Call():
            return frozenset().union(*(columns_in(argument) for argument in node.arguments))


def render(node: Node) -> str:
    """Return text whose tree is this one, with every operation in parentheses."""
    match node:
        case Column():
            return '"' + node.name.replace('"', '""') + '"'
        case Literal(value=str()):
            return "'" + str(node.value).replace("'", "''") + "'"
        case Literal(value=None | bool()):
            return str(node.value).lower() if node.value is not None else "null"
        case Literal():
            return repr(node.value)
        case Call():
            return _render_call(node.name, [render(argument) for argument in node.arguments])


def _render_call(name: str, parts: list[str]) -> str:
    if name in FUNCTIONS:
        return f"{name}({', '.join(parts)})"
    if name == "in":
        return f"({parts[0]} in ({', '.join(parts[1:])}))"
    if name == "between":
        return f"({parts[0]} between {parts[1]} and {parts[2]})"
    if name in ("not", "negate"):
        return f"({'not ' if name == 'not' else '- '}{parts[0]})"
    return f"({parts[0]} {name} {parts[1]})"


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if not match or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            what = "a quote is not closed" if text[start] in "'\"" else f"{text[start]!r} is not understood"
            raise refusal(text, start, what)
        kind, value = match.lastgroup, match[match.lastgroup]
        start = match.start(kind) - (kind == "quoted")
        if kind == "name" and value.lower() in _WORDS:
            kind, value = "word", value.lower()
        found.append(_Token(kind=kind, value=value, at=start))
        at = match.end()
    return [*found, _Token(kind="end", value="", at=end)]


class _Parser:
    """Recursive descent, one method for each line of the grammar."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._place = 0
        self._depth = 0
        self._nodes = 0

    def whole(self) -> Node:
        node = self._or()
        if self._next.kind != "end":
            raise self._refuse(f"{self._next.value!r} does not belong here; expected an operator or the end")
        return node

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self, *values: str) -> _Token | None:
        """Return the next token and step over it, if it is one of these words or symbols."""
        token = self._next
        if token.kind in ("word", "symbol") and token.value in values:
            self._place += 1
            return token
        return None

    def _need(self, value: str, after: str) -> _Token:
        token = self._take(value)
        if token is None:
            raise self._refuse(f"expected {value!r} {after}")
        return token

    def _refuse(self, problem: str, at: int | None = None) -> RequestError:
        return refusal(self._text, self._next.at if at is None else at, problem)

    def _call(self, at: int, name: str, *arguments: Node) -> Call:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise self._refuse(f"an expression has at most {NODES_MAX} operations")
        height = 1 + max((argument.height for argument in arguments if isinstance(argument, Call)), default=0)
        if height > HEIGHT_MAX:
            raise self._refuse(f"at most {HEIGHT_MAX} operations build on one another; use `in` or parentheses", at)
        return Call(at=at, name=name, arguments=arguments, height=height)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._refuse(f"expressions nest at most {DEPTH_MAX} deep")

    def _or(self) -> Node:
        self._deeper()
        node = self._and()
        while token := self._take("or"):
            node = self._call(token.at, "or", node, self._and())
        self._depth -= 1
        return node

    def _and(self) -> Node:
        node = self._not()
        while token := self._take("and"):
            node = self._call(token.at, "and", node, self._not())
        return node

    def _not(self) -> Node:
        token = self._take("not")
        if token is None:
            return self._comparison()
        self._deeper()
        node = self._call(token.at, "not", self._not())
        self._depth -= 1
        return node

    def _comparison(self) -> Node:
        left = self._sum()
        if token := self._take(*_COMPARISONS):
            node = self._call(token.at, _COMPARISONS[token.value], left, self._sum())
            if self._next.kind == "symbol" and self._next.value in _COMPARISONS:
                raise self._refuse("comparisons do not chain; join them with `and`")
            return node
        if token := self._take("is"):
            negated = self._take("not")
            self._need("null", "after `is`")
            node = self._call(token.at, "is_null", left)
            return self._call(token.at, "not", node) if negated else node
        negated = self._take("not")
        if token := self._take("in"):
            node = self._call(token.at, "in", left, *self._literals())
        elif token := self._take("between"):
            low = self._sum()
            self._need("and", "after the lower limit of `between`")
            node = self._call(token.at, "between", left, low, self._sum())
        elif negated:
            raise self._refuse("expected `in` or `between` after `not`")
        else:
            return left
        return self._call(negated.at, "not", node) if negated else node

    def _literals(self) -> list[Node]:
        self._need("(", "after `in`")
        found = [self._literal()]
        while self._take(","):
            found.append(self._literal())
            if len(found) > LITERALS_MAX:
                raise self._refuse(f"`in` takes at most {LITERALS_MAX} values")
        self._need(")", "after the values of `in`")
        return found

    def _literal(self) -> Node:
        minus = self._take("-")
        at = self._next.at
        node = self._atom()
        if not isinstance(node, Literal) or (minus and type(node.value) not in (int, float)):
            raise self._refuse("`in` takes constants only", at)
        return Literal(at=at, value=-node.value) if minus and isinstance(node.value, int | float) else node

    def _sum(self) -> Node:
        node = self._product()
        while token := self._take("+", "-"):
            node = self._call(token.at, token.value, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._sign()
        while token := self._take("*", "/", "%"):
            node = self._call(token.at, token.value, node, self._sign())
        return node

    def _sign(self) -> Node:
        token = self._take("-", "+")
        if token is None:
            return self._atom()
        self._deeper()
        node = self._sign()
        self._depth -= 1
        return self._call(token.at, "negate", node) if token.value == "-" else node

    def _atom(self) -> Node:
        token = self._next
        if token.kind == "symbol" and token.value == "(":
            self._place += 1
            node = self._or()
            self._need(")", f"for the parenthesis at position {token.at + 1}")
            return node
        if token.kind == "word" and token.value in ("true", "false", "null"):
            self._place += 1
            return Literal(at=token.at, value={"true": True, "false": False, "null": None}[token.value])
        if token.kind in ("end", "symbol", "word"):
            raise self._refuse("expected a value" + ("" if token.kind == "end" else f", not {token.value!r}"))
        self._place += 1
        if token.kind == "number":
            return Literal(at=token.at, value=self._number(token))
        if token.kind == "text":
            return Literal(at=token.at, value=token.value[1:-1].replace("''", "'"))
        if token.kind == "quoted":
            return Column(at=token.at, name=token.value.replace('""', '"'))
        if self._take("("):
            return self._function(token)
        return Column(at=token.at, name=token.value)

    def _number(self, token: _Token) -> int | float:
        value = int(token.value) if token.value.isascii() and token.value.isdigit() else float(token.value)
        if (isinstance(value, int) and value >= 1 << 63) or value == float("inf"):
            raise self._refuse(f"the number {token.value[:40]} is too large", token.at)
        return value

    def _function(self, token: _Token) -> Node:
        name = token.value.lower()
        if name not in FUNCTIONS:
            raise self._refuse(f"there is no function {token.value!r}; there are {', '.join(FUNCTIONS)}", token.at)
        arguments: list[Node] = []
        if not self._take(")"):
            arguments.append(self._or())
            while self._take(","):
                arguments.append(self._or())
            self._need(")", f"after the arguments of {name!r}")
        least, most = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise self._refuse(f"{name!r} takes {wanted} arguments, not {len(arguments)}", token.at)
        return self._call(token.at, name, *arguments)
