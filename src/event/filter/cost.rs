//! The allowed syntax of expressions, and the cost of an evaluation for one subscriber.
//!
//! The syntax is a list of allowed features. New features of the crate `cel` are not allowed before their cost is known.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators as op};

use super::refused::{MAX_STEPS, Refused};

/// Number of steps that take about as long as offering an event to an emitter.
pub(super) const STEPS_PER_OFFER: usize = 3;
/// Maximum depth of the tree. Evaluation is recursive: each level takes about 45 kB of the stack in a debug build.
const MAX_DEPTH: usize = 16;
/// Number of groups of a subscriber for which the cost must be below the limit.
const USUAL_GROUPS: usize = 16;

pub(super) const METADATA: &str = "metadata";
pub(super) const USER: &str = "user";
pub(super) const GROUPS: &str = "groups";
pub(super) const EMITTER_ID: &str = "emitterId";

/// Functions: name, number of arguments and cost. Strings may be a few kilobytes long.
const FUNCTIONS: [(&str, usize, usize); 5] =
    [("size", 1, 4), ("int", 1, 4), ("uint", 1, 4), ("double", 1, 4), ("string", 1, 8)];
const METHODS: [(&str, usize, usize); 4] =
    [("size", 0, 4), ("contains", 1, 8), ("startsWith", 1, 4), ("endsWith", 1, 4)];
/// Operators and their cost. A sum of strings is a new string, and in a chain each is longer than the one before.
const OPERATORS: [(&str, usize); 17] = [
    (op::CONDITIONAL, 1),
    (op::LOGICAL_AND, 1),
    (op::LOGICAL_OR, 1),
    (op::LOGICAL_NOT, 1),
    (op::NOT_STRICTLY_FALSE, 1),
    (op::SUBSTRACT, 2),
    (op::ADD, 128),
    (op::MULTIPLY, 2),
    (op::DIVIDE, 2),
    (op::MODULO, 2),
    (op::EQUALS, 2),
    (op::NOT_EQUALS, 2),
    (op::GREATER_EQUALS, 4),
    (op::LESS_EQUALS, 4),
    (op::GREATER, 4),
    (op::LESS, 4),
    (op::NEGATE, 2),
];

/// The cost of an evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    flat: usize,
    per_group: usize,
    /// True if the expression uses `metadata`.
    pub(super) metadata: bool,
    /// True if the expression uses `groups`.
    pub(super) groups: bool,
}

/// Visits each node of an expression once.
struct CostVisitor<'a> {
    source: &'a str,
    cost: Cost,
    /// The variables of the loop around the node.
    bound: Option<[&'a str; 2]>,
}

// === impl Cost ===

impl Cost {
    /// Steps for a subscriber with this number of groups and metadata keys.
    pub(super) fn steps(&self, groups: usize, metadata: usize) -> usize {
        // First the fixed cost; then the copies of the values that the expression uses.
        let begin = 4 + usize::from(self.metadata) * metadata + usize::from(self.groups) * groups;
        begin + self.flat + self.per_group * groups
    }
}

/// The cost of an expression, within the limits.
pub(super) fn of<'a>(root: &'a IdedExpr, source: &'a str) -> Result<Cost, Refused> {
    let mut visitor = CostVisitor { source, cost: Cost::default(), bound: None };
    visitor.node(root, 0)?;
    let steps = visitor.cost.steps(USUAL_GROUPS, 0);
    if steps > MAX_STEPS { Err(Refused::Costly(steps)) } else { Ok(visitor.cost) }
}

// === impl CostVisitor ===

impl<'a> CostVisitor<'a> {
    fn node(&mut self, node: &'a IdedExpr, depth: usize) -> Result<(), Refused> {
        if depth > MAX_DEPTH {
            return Err(Refused::Many("operators inside of one another", MAX_DEPTH));
        }
        self.cost.flat += 1;
        match &node.expr {
            Expr::Literal(LiteralValue::Bytes(_)) => Err(self.forbidden("b", "there are no bytes to compare with")),
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                self.cost.flat += 1;
                self.whole(&select.operand, depth + 1)
            }
            Expr::Call(call) => self.call(call, depth),
            Expr::List(list) => {
                // Each element is copied at each evaluation.
                self.cost.flat += 3 * list.elements.len();
                self.nodes(&list.elements, depth)
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::Map(_) | Expr::Struct(_) => Err(self.forbidden("{", "maps and messages cannot be made in a filter")),
            Expr::Unspecified => Err(self.forbidden("", "the expression is not complete")),
        }
    }

    fn nodes(&mut self, nodes: &'a [IdedExpr], depth: usize) -> Result<(), Refused> {
        nodes.iter().try_for_each(|node| self.node(node, depth + 1))
    }

    /// A node where `metadata` or `groups` is used as a whole, without being copied.
    fn whole(&mut self, node: &'a IdedExpr, depth: usize) -> Result<(), Refused> {
        let bound = |name: &str| self.bound.is_some_and(|bound| bound.contains(&name));
        match &node.expr {
            Expr::Ident(name) if name == METADATA && !bound(name) => {
                self.cost.metadata = true;
                self.cost.flat += 1;
            }
            Expr::Ident(name) if name == GROUPS && !bound(name) => {
                if self.bound.is_some() {
                    return Err(self.forbidden(name, "`groups` cannot be used inside of a loop"));
                }
                self.cost.groups = true;
                self.cost.per_group += 1;
            }
            _ => return self.node(node, depth),
        }
        Ok(())
    }

    fn name(&mut self, name: &str) -> Result<(), Refused> {
        if self.bound.is_some_and(|bound| bound.contains(&name)) {
            return Ok(());
        }
        match name {
            METADATA => {
                let reason = "`metadata` can be used before a key (`metadata.level`, `metadata[\"level\"]`), after `in`, or in `size()`";
                return Err(self.forbidden(name, reason));
            }
            GROUPS => {
                let reason = "`groups` can be used after `in`, before an index or a loop (`groups.exists(g, …)`), or in `size()`";
                return Err(self.forbidden(name, reason));
            }
            USER | EMITTER_ID => {}
            _ => {
                let known =
                    format!("`{name}` is not known; variables are `metadata`, `user`, `groups` and `emitterId`");
                return Err(self.forbidden(name, &known));
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &'a CallExpr, depth: usize) -> Result<(), Refused> {
        let (name, count) = (call.func_name.as_str(), call.args.len());
        let function = |known: &[(&str, usize, usize)]| {
            known.iter().find(|(known, arguments, _)| (*known, *arguments) == (name, count)).map(|(.., cost)| *cost)
        };
        let operator = || OPERATORS.iter().find(|(known, _)| *known == name).map(|(_, cost)| *cost);
        let steps = match (&call.target, name) {
            (Some(_), _) => function(&METHODS),
            (None, op::INDEX | op::IN) => Some(2),
            // At least one number, so not a sum of strings. `exists_one` counts like this.
            (None, op::ADD) if call.args.iter().any(is_number) => Some(2),
            (None, _) => operator().or_else(|| function(&FUNCTIONS)),
        };
        let Some(steps) = steps else { return Err(self.unknown(name)) };
        self.cost.flat += steps;
        match (&call.target, name, call.args.as_slice()) {
            (Some(target), "size", []) => self.whole(target, depth + 1),
            (Some(target), _, arguments) => {
                self.node(target, depth + 1)?;
                self.nodes(arguments, depth)
            }
            (None, "size", [all]) => self.whole(all, depth + 1),
            (None, op::INDEX, [all, key]) => {
                self.whole(all, depth + 1)?;
                self.node(key, depth + 1)
            }
            (None, op::IN, [one, all]) => {
                self.node(one, depth + 1)?;
                self.whole(all, depth + 1)
            }
            (None, _, arguments) => self.nodes(arguments, depth),
        }
    }

    /// `all`, `exists`, `exists_one`: over the groups or over a literal list, and not nested.
    fn comprehension(&mut self, all: &'a ComprehensionExpr, depth: usize) -> Result<(), Refused> {
        if self.bound.is_some() {
            return Err(self.forbidden(".", "a loop cannot be inside of another one"));
        }
        if !matches!(all.accu_init.expr, Expr::Literal(_)) || all.iter_var2.is_some() {
            let known = "`map` and `filter` make lists; `all`, `exists` and `exists_one` decide";
            return Err(self.forbidden("", known));
        }
        self.whole(&all.iter_range, depth + 1)?;
        let times = match &all.iter_range.expr {
            Expr::Ident(name) if name == GROUPS => None,
            Expr::List(list) => Some(list.elements.len()),
            _ => return Err(self.forbidden(".", "a loop needs `groups`, or a list of values in brackets")),
        };
        let before = std::mem::take(&mut self.cost.flat);
        self.bound = Some([&all.iter_var, &all.accu_var]);
        for part in [&all.accu_init, &all.loop_cond, &all.loop_step, &all.result] {
            self.node(part, depth + 1)?;
        }
        self.bound = None;
        // Two variables change in each round.
        let round = std::mem::replace(&mut self.cost.flat, before) + 4;
        match times {
            None => self.cost.per_group += round,
            Some(times) => self.cost.flat += round * times,
        }
        Ok(())
    }

    fn unknown(&self, name: &str) -> Refused {
        let names = "`size`, `contains`, `startsWith`, `endsWith`, `int`, `uint`, `double`, `string`, `has`";
        let reason = format!(
            "`{name}` is not a function here, or has other arguments; functions are {names}, and `all`, `exists`, `exists_one`"
        );
        self.forbidden(name, &reason)
    }

    fn forbidden(&self, word: &str, reason: &str) -> Refused {
        Refused::Forbidden { column: column_of(self.source, word), reason: reason.to_owned() }
    }
}

fn is_number(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)))
}

/// The column of the first occurrence of a word, not as a part of a longer word, and preferably not as a key.
fn column_of(source: &str, word: &str) -> usize {
    if word.is_empty() {
        return 0;
    }
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |at: &usize| {
        let (before, after) = (&source[..*at], &source[at + word.len()..]);
        !word.starts_with(part) || !(before.ends_with(part) || after.starts_with(part))
    };
    let all = || source.match_indices(word).map(|(at, _)| at).filter(whole);
    let found = all().find(|at| !source[..*at].ends_with('.')).or_else(|| all().next());
    found.map_or(0, |at| source[..at].chars().count() + 1)
}
