//! A filter as a CEL expression. It is compiled once and evaluated per subscriber. Its cost is known before it is accepted.
//!
//! Parser and evaluator are those of the crate `cel`. This file and `cost.rs` limit their input: length, depth and cost.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
};

use cel::{
    Context, Env, Value as Cel,
    common::{
        ast::IdedExpr,
        types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt},
        value::{CowVal, Val},
    },
    context::VariableResolver,
    parser::PrattParser,
};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    Subscriber, Undecided,
    cost::{self, Cost},
    refused::{MAX_BYTES, Refused},
};

/// Maximum nesting of brackets.
const MAX_BRACKETS: u16 = 16;
/// Maximum number of `?`, including those in strings. The parser recurses for each, and does not count them itself.
const MAX_CONDITIONALS: usize = 16;

/// A compiled expression.
pub(super) struct Expression {
    source: Box<str>,
    root: IdedExpr,
    cost: Cost,
}

/// The variables of an expression, for one subscriber.
struct Variables<'a> {
    metadata: Option<CelMap<'a>>,
    groups: Option<CelList<'a>>,
    subscriber: &'a Subscriber<'a>,
}

// === impl Expression ===

impl Expression {
    pub(super) fn new(source: &str) -> Result<Self, Refused> {
        if source.len() > MAX_BYTES {
            return Err(Refused::Length(source.len()));
        }
        if source.matches('?').count() > MAX_CONDITIONALS {
            return Err(Refused::Many("`?`", MAX_CONDITIONALS));
        }
        // No panic of the parser is known. If there is one, only this publisher is rejected.
        let panicked = |_| syntax(0, 0, "the parser cannot read it");
        let root = catch_unwind(|| parse(source)).map_err(panicked)??;
        let cost = cost::of(&root, source)?;
        Ok(Self { source: source.into(), root, cost })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    pub(super) fn weight(&self, subscriber: &Subscriber<'_>) -> usize {
        1 + self.cost.steps(subscriber.groups.len(), subscriber.meta.0.len()) / cost::STEPS_PER_OFFER
    }

    pub(super) fn evaluate(&self, subscriber: &Subscriber<'_>) -> Result<bool, Undecided> {
        static ENV: OnceLock<Arc<Env>> = OnceLock::new();
        let env = ENV.get_or_init(|| Arc::new(Env::default().with_optional_support(false).with_stdlib()));
        let variables = Variables {
            metadata: self.cost.metadata.then(|| metadata(subscriber)),
            groups: self.cost.groups.then(|| groups(subscriber)),
            subscriber,
        };
        let evaluate = || {
            let mut context = Context::with_env(env.clone());
            context.set_variable_resolver(&variables);
            let value = Cel::resolve_val(&self.root, &context).map_err(|_| Undecided)?;
            value.downcast_ref::<CelBool>().map(|decided| *decided.inner()).ok_or(Undecided)
        };
        // A panic must not end the streams of a whole thread.
        catch_unwind(AssertUnwindSafe(evaluate)).unwrap_or(Err(Undecided))
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expression({:?})", self.source)
    }
}

impl Serialize for Expression {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// Parses in time linear in the length of the text, with limited depth. The default parser of the crate (ANTLR) needs
/// gigabytes for some texts with a hundred brackets.
fn parse(source: &str) -> Result<IdedExpr, Refused> {
    let parser = PrattParser::new().max_recursion_depth(MAX_BRACKETS).error_recovery_limit(0);
    parser.parse(source).map_err(|errors| {
        let too_deep = errors.errors.iter().any(|error| error.pos.0 == 0 && error.msg.contains("recursion"));
        let first = errors.errors.iter().find(|error| error.pos.0 > 0);
        let Some(error) = first.filter(|_| !too_deep) else {
            return Refused::Many("nested brackets", MAX_BRACKETS.into());
        };
        let at = |number: isize| usize::try_from(number).unwrap_or(0);
        syntax(at(error.pos.0), at(error.pos.1), error.msg.trim_start_matches("Syntax error: "))
    })
}

fn syntax(line: usize, column: usize, reason: &str) -> Refused {
    Refused::Syntax { line, column, reason: reason.into() }
}

// === impl Variables ===

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        match name {
            cost::METADATA => self.metadata.as_ref().map(|map| CowVal::Borrowed(map as &(dyn Val + 'b))),
            cost::GROUPS => self.groups.as_ref().map(|list| CowVal::Borrowed(list as &(dyn Val + 'b))),
            cost::USER => Some(self.subscriber.user.map_or_else(|| CowVal::owned(CelNull), text)),
            cost::EMITTER_ID => Some(text(self.subscriber.emitter_id)),
            _ => None,
        }
    }
}

fn text(text: &str) -> CowVal<'_, '_> {
    CowVal::owned(CelString::from(text))
}

fn metadata<'a>(subscriber: &'a Subscriber<'_>) -> CelMap<'a> {
    let pair = |(key, value): (&'a String, &'a Value)| (CelMapKey::from(key.as_str()), scalar(value));
    CelMap::from(subscriber.meta.0.iter().map(pair).collect::<std::collections::HashMap<_, _>>())
}

fn groups<'a>(subscriber: &'a Subscriber<'_>) -> CelList<'a> {
    let boxed = |group: &'a String| Box::new(CelString::from(group.as_str())) as Box<dyn Val + 'a>;
    CelList::from(subscriber.groups.iter().map(boxed).collect::<Vec<_>>())
}

/// A metadata value. Whole numbers are `int` if they fit. Other values than scalars do not occur, and would be `null`.
fn scalar(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::String(value) => Box::new(CelString::from(value.as_str())),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => Box::new(CelUInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => Box::new(CelNull),
    }
}

#[cfg(test)]
mod tests;
