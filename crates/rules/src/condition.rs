//! Conditions: expressions of CEL, read by its own parser, checked against the table of signals, and evaluated here.
//!
//! The language is CEL without what a condition over a row of plain values has no use for: no comprehensions, no calls but the
//! operators, no lists but literal ones behind `in`, no fractions. So every condition that was taken ends after at most
//! [`MAX_NODES`] steps, touches nothing but the row, and can fail in no way but by an overflow or a division by zero. What it means
//! is what CEL means by it; a test compares both on random rows.
use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel::parser::Parser;
use portcullis_domain::risk::{FIELDS, Kind, Word};
use std::cmp::Ordering;

/// The longest condition, in bytes.
pub const MAX_LENGTH: usize = 2000;
/// The most operators, signals and literals of one.
pub const MAX_NODES: usize = 200;
/// The deepest.
const MAX_DEPTH: u16 = 40;

/// What is wrong with a condition, and at which byte of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where.
    pub at: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

/// A condition that was checked.
#[derive(Debug, Clone)]
pub struct Condition {
    root: Node,
}

#[derive(Debug, Clone)]
enum Node {
    Bool(bool),
    Int(i64),
    Text(String),
    /// A signal by its place in the table.
    Signal(usize),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<Node>, Box<Node>, Box<Node>),
    Equal(Box<Node>, Box<Node>),
    Compare(fn(Ordering) -> bool, Box<Node>, Box<Node>),
    Count(fn(i64, i64) -> Option<i64>, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Node>),
}

/// An overflow or a division by zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoNumber;

impl Condition {
    /// Reads and checks a condition.
    pub fn parse(text: &str) -> Result<Self, Vec<Wrong>> {
        if text.len() > MAX_LENGTH {
            let what =
                format!("the condition has {} bytes, and may have {MAX_LENGTH}: make two rules of it", text.len());
            return Err(vec![Wrong { at: 0, what }]);
        }
        let parser = Parser::new().max_recursion_depth(MAX_DEPTH);
        let (expression, places) = parser.parse_with_source_info(text).map_err(|errors| {
            let wrong = errors.errors.iter().map(|error| Wrong {
                at: offset(text, error.pos),
                what: format!("this is no expression of CEL: {}", error.msg.trim()),
            });
            wrong.collect::<Vec<_>>()
        })?;
        let mut check = Check { places: &places, nodes: 0 };
        let (root, kind) = check.node(&expression).map_err(|wrong| vec![wrong])?;
        if kind != Kind::Bool {
            let what = format!("the condition is {}, and must be true or false: compare it with something", name(kind));
            return Err(vec![Wrong { at: 0, what }]);
        }
        Ok(Self { root })
    }

    /// Whether it holds of this row, which is [`portcullis_domain::risk::Signals::words`].
    pub fn holds(&self, row: &[Word<'_>]) -> Result<bool, NoNumber> {
        match value(&self.root, row)? {
            Word::Bool(yes) => Ok(yes),
            // Checked when it was read.
            Word::Int(_) | Word::Text(_) => Err(NoNumber),
        }
    }
}

/// The byte at line and column, as the parser counts them (from 1, and from 0).
fn offset(text: &str, (line, column): (isize, isize)) -> usize {
    let before = usize::try_from(line - 1).unwrap_or(0);
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    (start + usize::try_from(column).unwrap_or(0)).min(text.len())
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int => "a whole number",
        Kind::Text => "a word",
    }
}

/// How many letters must change to make one of the other (Levenshtein's distance).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            row.push((above[j] + usize::from(x != *y)).min(above[j + 1] + 1).min(row[j] + 1));
        }
        above = row;
    }
    above[b.len()]
}

/// The names that are nearest to one that is none.
fn nearest(wanted: &str) -> &'static str {
    FIELDS.iter().min_by_key(|field| distance(field.name, wanted)).map_or("", |field| field.name)
}

struct Check<'a> {
    places: &'a SourceInfo,
    nodes: usize,
}

type Checked = Result<(Node, Kind), Wrong>;

impl Check<'_> {
    fn wrong(&self, at: &IdedExpr, what: impl Into<String>) -> Wrong {
        Wrong { at: self.begin(at).unwrap_or(0), what: what.into() }
    }

    /// Where an expression begins. The parser places a member at its point, a call at its bracket and an operator between its operands.
    fn begin(&self, at: &IdedExpr) -> Option<usize> {
        let own = self.places.offset_for(at.id).map(|(start, _)| start as usize);
        let first = match &at.expr {
            Expr::Select(select) => self.begin(&select.operand),
            Expr::Comprehension(all) => self.begin(&all.iter_range),
            Expr::Call(call) => {
                call.target.iter().map(|target| &**target).chain(&call.args).filter_map(|arg| self.begin(arg)).min()
            }
            _ => None,
        };
        own.into_iter().chain(first).min()
    }

    fn node(&mut self, at: &IdedExpr) -> Checked {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let what = format!("the condition has more than {MAX_NODES} parts: make two rules of it");
            return Err(self.wrong(at, what));
        }
        match &at.expr {
            Expr::Literal(literal) => self.literal(at, literal),
            Expr::Ident(_) | Expr::Select(_) => self.signal(at),
            Expr::Call(call) => self.call(at, call),
            Expr::Comprehension(_) => {
                Err(self.wrong(at, "`all`, `exists`, `map` and `filter` are not taken: signals are no lists"))
            }
            Expr::List(_) => Err(self.wrong(at, "a list stands behind `in` only")),
            Expr::Map(_) | Expr::Struct(_) => {
                Err(self.wrong(at, "maps and messages are not taken: signals are plain values"))
            }
            Expr::Unspecified => Err(self.wrong(at, "there is no expression here")),
        }
    }

    fn literal(&self, at: &IdedExpr, literal: &LiteralValue) -> Checked {
        Ok(match literal {
            LiteralValue::Boolean(yes) => (Node::Bool(*yes.inner()), Kind::Bool),
            LiteralValue::Int(number) => (Node::Int(*number.inner()), Kind::Int),
            LiteralValue::String(text) => (Node::Text(text.inner().to_owned()), Kind::Text),
            LiteralValue::UInt(_) => return Err(self.wrong(at, "write whole numbers without `u`: signals have a sign")),
            LiteralValue::Double(_) => {
                return Err(self.wrong(at, "signals are whole numbers: write one without a point"));
            }
            LiteralValue::Bytes(_) => return Err(self.wrong(at, "signals are no bytes: write the text without `b`")),
            LiteralValue::Null => {
                return Err(self.wrong(at, "no signal is null: what is not known is -1, or an empty text"));
            }
        })
    }

    fn signal(&self, at: &IdedExpr) -> Checked {
        let Some(spelled) = spelled(&at.expr) else {
            return Err(self.wrong(at, "`has()` and members of values are not taken: every signal is always there"));
        };
        match FIELDS.iter().position(|field| field.name == spelled) {
            Some(place) => Ok((Node::Signal(place), FIELDS[place].kind)),
            None => {
                let what = format!("there is no `{spelled}`; did you mean `{}`?", nearest(&spelled));
                Err(self.wrong(at, what))
            }
        }
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Checked {
        use operators as op;
        if call.target.is_some() {
            let what = format!("the function `{}` is not taken: there are operators only", call.func_name);
            return Err(self.wrong(at, what));
        }
        match (call.func_name.as_str(), call.args.as_slice()) {
            (op::LOGICAL_NOT, [one]) => Ok((Node::Not(self.of(one, Kind::Bool, "`!`")?), Kind::Bool)),
            (op::NEGATE, [one]) => Ok((Node::Negate(self.of(one, Kind::Int, "`-`")?), Kind::Int)),
            (op::LOGICAL_AND, [a, b]) => {
                Ok((Node::And(self.of(a, Kind::Bool, "`&&`")?, self.of(b, Kind::Bool, "`&&`")?), Kind::Bool))
            }
            (op::LOGICAL_OR, [a, b]) => {
                Ok((Node::Or(self.of(a, Kind::Bool, "`||`")?, self.of(b, Kind::Bool, "`||`")?), Kind::Bool))
            }
            (op::CONDITIONAL, [condition, a, b]) => {
                let condition = self.of(condition, Kind::Bool, "`? :`")?;
                let (a, kind) = self.node(a)?;
                let b = self.of(b, kind, "the other side of `? :`")?;
                Ok((Node::If(condition, Box::new(a), b), kind))
            }
            (op::EQUALS, [a, b]) => Ok((self.equal(a, b, "`==`")?, Kind::Bool)),
            (op::NOT_EQUALS, [a, b]) => Ok((Node::Not(Box::new(self.equal(a, b, "`!=`")?)), Kind::Bool)),
            (op::IN, [one, list]) => self.within(one, list),
            (name, [a, b]) => {
                if let Some(holds) = comparison(name) {
                    return Ok((
                        Node::Compare(holds, self.of(a, Kind::Int, "an order")?, self.of(b, Kind::Int, "an order")?),
                        Kind::Bool,
                    ));
                }
                let Some(count) = arithmetic(name) else { return Err(self.function(at, name)) };
                Ok((
                    Node::Count(count, self.of(a, Kind::Int, "arithmetic")?, self.of(b, Kind::Int, "arithmetic")?),
                    Kind::Int,
                ))
            }
            (name, _) => Err(self.function(at, name)),
        }
    }

    fn function(&self, at: &IdedExpr, name: &str) -> Wrong {
        self.wrong(at, format!("the function `{name}` is not taken: there are operators only"))
    }

    /// An operand that must be of a kind.
    fn of(&mut self, at: &IdedExpr, wanted: Kind, by: &str) -> Result<Box<Node>, Wrong> {
        let (node, kind) = self.node(at)?;
        if kind != wanted {
            return Err(self.wrong(at, format!("this is {}, and {by} wants {}", name(kind), name(wanted))));
        }
        Ok(Box::new(node))
    }

    fn equal(&mut self, a: &IdedExpr, b: &IdedExpr, by: &str) -> Result<Node, Wrong> {
        let (left, kind) = self.node(a)?;
        let right = self.of(b, kind, by)?;
        self.sensible(a, b)?;
        self.sensible(b, a)?;
        Ok(Node::Equal(Box::new(left), right))
    }

    fn within(&mut self, one: &IdedExpr, list: &IdedExpr) -> Checked {
        let (node, kind) = self.node(one)?;
        let Expr::List(list_of) = &list.expr else {
            return Err(self.wrong(list, "`in` wants a list such as ['DE', 'AT']"));
        };
        let mut nodes = Vec::new();
        for element in &list_of.elements {
            if !matches!(element.expr, Expr::Literal(_)) {
                return Err(
                    self.wrong(element, "a list holds texts or numbers as they are, nothing that is worked out")
                );
            }
            nodes.push(*self.of(element, kind, "`in`")?);
            self.sensible(one, element)?;
        }
        Ok((Node::In(Box::new(node), nodes), Kind::Bool))
    }

    /// A word that a signal never is makes a condition that never holds.
    fn sensible(&self, signal: &IdedExpr, literal: &IdedExpr) -> Result<(), Wrong> {
        let (Some(name), Expr::Literal(LiteralValue::String(text))) = (spelled(&signal.expr), &literal.expr) else {
            return Ok(());
        };
        let Some((_, words)) = crate::WORDS.iter().find(|(of, _)| *of == name) else { return Ok(()) };
        if words.contains(&text.inner()) {
            return Ok(());
        }
        Err(self.wrong(literal, format!("`{name}` is never '{}'; it is one of: {}", text.inner(), words.join(", "))))
    }
}

/// `signal.new_device` as text, if it is such a name.
fn spelled(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", spelled(&select.operand.expr)?, select.field)),
        _ => None,
    }
}

fn comparison(name: &str) -> Option<fn(Ordering) -> bool> {
    Some(match name {
        operators::LESS => Ordering::is_lt,
        operators::LESS_EQUALS => Ordering::is_le,
        operators::GREATER => Ordering::is_gt,
        operators::GREATER_EQUALS => Ordering::is_ge,
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<fn(i64, i64) -> Option<i64>> {
    Some(match name {
        operators::ADD => i64::checked_add,
        operators::SUBSTRACT => i64::checked_sub,
        operators::MULTIPLY => i64::checked_mul,
        operators::DIVIDE => i64::checked_div,
        operators::MODULO => i64::checked_rem,
        _ => return None,
    })
}

fn yes(node: &Node, row: &[Word<'_>]) -> Result<bool, NoNumber> {
    match value(node, row)? {
        Word::Bool(yes) => Ok(yes),
        Word::Int(_) | Word::Text(_) => Err(NoNumber),
    }
}

fn number(node: &Node, row: &[Word<'_>]) -> Result<i64, NoNumber> {
    match value(node, row)? {
        Word::Int(number) => Ok(number),
        Word::Bool(_) | Word::Text(_) => Err(NoNumber),
    }
}

fn value<'a>(node: &'a Node, row: &'a [Word<'a>]) -> Result<Word<'a>, NoNumber> {
    Ok(match node {
        Node::Bool(yes) => Word::Bool(*yes),
        Node::Int(number) => Word::Int(*number),
        Node::Text(text) => Word::Text(text),
        Node::Signal(place) => *row.get(*place).ok_or(NoNumber)?,
        Node::Not(one) => Word::Bool(!yes(one, row)?),
        Node::Negate(one) => Word::Int(number(one, row)?.checked_neg().ok_or(NoNumber)?),
        // As CEL has it: where one side decides, it does not matter that the other one fails.
        Node::And(a, b) => decided(yes(a, row), || yes(b, row), false)?,
        Node::Or(a, b) => decided(yes(a, row), || yes(b, row), true)?,
        Node::If(condition, a, b) => value(if yes(condition, row)? { a } else { b }, row)?,
        Node::Equal(a, b) => Word::Bool(value(a, row)? == value(b, row)?),
        Node::Compare(holds, a, b) => Word::Bool(holds(number(a, row)?.cmp(&number(b, row)?))),
        Node::Count(count, a, b) => Word::Int(count(number(a, row)?, number(b, row)?).ok_or(NoNumber)?),
        Node::In(one, list) => {
            let one = value(one, row)?;
            let mut found = false;
            for element in list {
                found |= value(element, row)? == one;
            }
            Word::Bool(found)
        }
    })
}

fn decided<'a>(
    a: Result<bool, NoNumber>,
    b: impl FnOnce() -> Result<bool, NoNumber>,
    decides: bool,
) -> Result<Word<'a>, NoNumber> {
    if a == Ok(decides) {
        return Ok(Word::Bool(decides));
    }
    let b = b()?;
    if b == decides { Ok(Word::Bool(decides)) } else { a.map(Word::Bool) }
}
