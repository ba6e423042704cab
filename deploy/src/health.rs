//! Health rules of the user's own: CEL expressions over one object, for kinds that follow no convention.
//!
//! Read by [`crate::spec`], asked by [`crate::rollout`] only for a state that the kind's controller
//! reported for our generation. Order: in progress, failed, ready. An expression that cannot be
//! evaluated means "not yet", with the reason.
//!
//! Invariant: expressions come from jobs, so what they cost is bounded before the first evaluation:
//! length, depth of the tree (evaluation is recursive), and no loop inside a loop.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Context;
use cel::IdedExpr;
use cel::Value as Cel;
use cel::common::ast::EntryExpr;
use cel::common::ast::Expr;
use cel::parser::PrattParser;
use serde_json::Value;

/// Longest expression.
const MAX_BYTES: usize = 1 << 10;
/// Deepest nesting that the parser follows; every level takes some kilobytes of stack.
const MAX_NESTING: u16 = 16;
/// Deepest tree that is evaluated.
const MAX_DEPTH: usize = 32;

/// How an object stands by a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Done.
    Ready,
    /// Not yet; why.
    InProgress(String),
    /// It failed; why.
    Failed(String),
}

/// One expression that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression(Arc<IdedExpr>);

/// The rule of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The kind's group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// Holds while the object is worked on; unset: never.
    pub in_progress: Option<Expression>,
    /// Holds when it failed; unset: never.
    pub failed: Option<Expression>,
    /// Holds when it is done.
    pub ready: Expression,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// In words: what is wrong and where in the expression.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("the expression is longer than {MAX_BYTES} bytes"));
        }
        let parsed = PrattParser::new()
            .max_recursion_depth(MAX_NESTING)
            .parse(text);
        let tree = parsed.map_err(|errors| {
            let first = errors.errors.first();
            first.map_or_else(
                || "is not a CEL expression".to_owned(),
                |error| {
                    let (line, column) = error.pos;
                    format!(
                        "is not a CEL expression (at {line}:{column}): {}",
                        error.msg
                    )
                },
            )
        })?;
        bounded(&tree)?;
        Ok(Self(Arc::new(tree)))
    }

    /// Evaluates to true or false.
    fn holds(&self, context: &Context<'_, '_>) -> Result<bool, String> {
        match context.resolve(&self.0) {
            Ok(Cel::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it is neither true nor false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Rule {
    /// Says how an object stands.
    #[must_use]
    pub fn judge(&self, live: &Value) -> Health {
        let mut context = Context::default();
        for field in ["metadata", "spec", "status"] {
            let value = live.get(field).unwrap_or(&Value::Null);
            context.add_variable_from_value(field, of_json(value));
        }
        let rules = [
            ("in_progress", self.in_progress.as_ref()),
            ("failed", self.failed.as_ref()),
            ("ready", Some(&self.ready)),
        ];
        for (name, expression) in rules {
            let holds = expression.map(|expression| expression.holds(&context));
            match (name, holds) {
                (_, None | Some(Ok(false))) => {}
                ("in_progress", Some(Ok(true))) => {
                    return Health::InProgress("its rule in_progress holds".to_owned());
                }
                ("failed", Some(Ok(true))) => {
                    return Health::Failed("has failed: its rule failed holds".to_owned());
                }
                (_, Some(Ok(true))) => return Health::Ready,
                (_, Some(Err(why))) => {
                    return Health::InProgress(format!("its rule {name} has no answer yet: {why}"));
                }
            }
        }
        Health::InProgress("its rule ready does not hold yet".to_owned())
    }
}

/// Refuses trees that cost too much. Walks without recursion.
fn bounded(tree: &IdedExpr) -> Result<(), String> {
    let mut open = vec![(tree, 1_usize, 0_usize)];
    while let Some((node, depth, loops)) = open.pop() {
        if depth > MAX_DEPTH {
            return Err(format!(
                "the expression is nested more than {MAX_DEPTH} deep"
            ));
        }
        let mut below = |node, loops| open.push((node, depth + 1, loops));
        match &node.expr {
            Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
            Expr::Call(call) => {
                let target = call.target.as_deref().into_iter();
                target.chain(&call.args).for_each(|node| below(node, loops));
            }
            Expr::Select(select) => below(&select.operand, loops),
            Expr::List(list) => list.elements.iter().for_each(|node| below(node, loops)),
            Expr::Map(map) => entries(&map.entries).for_each(|node| below(node, loops)),
            Expr::Struct(made) => entries(&made.entries).for_each(|node| below(node, loops)),
            Expr::Comprehension(walk) => {
                if loops > 0 {
                    return Err("a macro over a list cannot stand inside another one".to_owned());
                }
                below(&walk.iter_range, loops);
                for node in [
                    &walk.accu_init,
                    &walk.loop_cond,
                    &walk.loop_step,
                    &walk.result,
                ] {
                    below(node, loops + 1);
                }
            }
        }
    }
    Ok(())
}

fn entries(entries: &[cel::common::ast::IdedEntryExpr]) -> impl Iterator<Item = &IdedExpr> {
    entries.iter().flat_map(|entry| match &entry.expr {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    })
}

/// All whole numbers become `int`, so that literals of expressions compare with them.
fn of_json(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Cel::Int(whole),
            None => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(of_json).collect())),
        Value::Object(fields) => {
            let fields: HashMap<String, Cel> = fields
                .iter()
                .map(|(name, value)| (name.clone(), of_json(value)))
                .collect();
            Cel::Map(fields.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(ready: &str) -> Rule {
        Rule {
            group: "example.com".to_owned(),
            kind: "Widget".to_owned(),
            in_progress: Expression::parse("has(status.busy) && status.busy").ok(),
            failed: Expression::parse("status.phase == 'Broken'").ok(),
            ready: Expression::parse(ready).expect("the expression is valid"),
        }
    }

    #[test]
    fn in_progress_comes_before_failed_and_failed_before_ready() {
        let judge = |status: Value| rule("true").judge(&json!({ "status": status }));
        let busy = json!({"phase": "Broken", "busy": true});
        assert!(matches!(judge(busy), Health::InProgress(_)));
        assert!(matches!(
            judge(json!({"phase": "Broken"})),
            Health::Failed(_)
        ));
        assert_eq!(judge(json!({"phase": "Fine"})), Health::Ready);
    }

    #[test]
    fn numbers_lists_and_metadata_are_compared() {
        let text = "status.ready >= spec.size && status.items.exists(i, i.name == metadata.name)";
        let judge = |ready: i64| {
            rule(text).judge(&json!({
                "metadata": {"name": "w"}, "spec": {"size": 2},
                "status": {"phase": "x", "ready": ready, "items": [{"name": "v"}, {"name": "w"}]},
            }))
        };
        assert_eq!(judge(2), Health::Ready);
        assert!(matches!(judge(1), Health::InProgress(_)));
    }

    #[test]
    fn what_cannot_be_evaluated_is_not_yet_and_says_why() {
        let Health::InProgress(why) = rule("true").judge(&json!({})) else {
            panic!("there is no status");
        };
        assert!(
            why.starts_with("its rule in_progress has no answer yet")
                || why.starts_with("its rule failed has no answer yet"),
            "{why}"
        );
        let text = rule("status.phase").judge(&json!({"status": {"phase": "x"}}));
        let why = "its rule ready has no answer yet: it is neither true nor false".to_owned();
        assert_eq!(text, Health::InProgress(why));
    }

    #[test]
    fn costly_or_broken_expressions_are_refused() {
        let sum = vec!["1"; 300].join("+");
        let long = "x".repeat(MAX_BYTES + 1);
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let loops = "status.a.all(x, status.a.all(y, x == y))";
        let fields = format!("status{}", ".a".repeat(200));
        for text in [
            &sum, &long, &deep, loops, &fields, "", "status.", "1 +", "'",
        ] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_deepest_tree_fits_a_thread() {
        let sum = format!("{} == 31", vec!["1"; MAX_DEPTH - 1].join("+"));
        assert_eq!(
            rule(&sum).judge(&json!({"status": {"phase": "x"}})),
            Health::Ready
        );
    }
}
