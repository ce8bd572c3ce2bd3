//! Conditions joined by AND, OR, NOT and IS, in SQL's three-valued logic. Filters and policies are trees with leaves of
//! their own.

use crate::truth::Truth;

/// A condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Tree<L> {
    /// A constant.
    Known(Truth),
    /// Something that a row decides.
    Leaf(L),
    /// All of these; true if there are none.
    And(Vec<Tree<L>>),
    /// One of these; false if there are none.
    Or(Vec<Tree<L>>),
    /// The opposite; NULL stays NULL.
    Not(Box<Tree<L>>),
    /// Whether the condition has this value; never NULL.
    Is(Box<Tree<L>>, Truth),
}

impl<L> Tree<L> {
    /// All of some conditions, without those that say nothing.
    pub fn and(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for part in parts {
            match part {
                Self::Known(Truth::TRUE) => {}
                Self::Known(Truth::FALSE) => return Self::Known(Truth::FALSE),
                Self::And(parts) => all.extend(parts),
                part => all.push(part),
            }
        }
        match all.len() {
            0 => Self::Known(Truth::TRUE),
            1 => all.pop().unwrap_or(Self::Known(Truth::TRUE)),
            _ => Self::And(all),
        }
    }

    /// One of some conditions, without those that say nothing.
    pub fn or(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Vec::new();
        for part in parts {
            match part {
                Self::Known(Truth::FALSE) => {}
                Self::Known(Truth::TRUE) => return Self::Known(Truth::TRUE),
                Self::Or(parts) => all.extend(parts),
                part => all.push(part),
            }
        }
        match all.len() {
            0 => Self::Known(Truth::FALSE),
            1 => all.pop().unwrap_or(Self::Known(Truth::FALSE)),
            _ => Self::Or(all),
        }
    }

    /// The opposite of a condition.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "stands beside `and` and `or`")]
    pub fn not(self) -> Self {
        match self {
            Self::Known(truth) => Self::Known(truth.not()),
            Self::Not(inner) => *inner,
            tree => Self::Not(Box::new(tree)),
        }
    }

    /// Whether a condition has a value.
    #[must_use]
    pub fn is(self, value: Truth) -> Self {
        match self {
            Self::Known(truth) => Self::Known(truth.is(value)),
            tree => Self::Is(Box::new(tree), value),
        }
    }

    /// What can be said when `leaf` says what it knows. A conjunction that is false asks no more leaves, nor does a
    /// disjunction that is true.
    pub fn judge<'t, F: FnMut(&'t L) -> Truth>(&'t self, leaf: &mut F) -> Truth {
        match self {
            Self::Known(truth) => *truth,
            Self::Leaf(inner) => leaf(inner),
            Self::And(parts) => {
                let mut all = Truth::TRUE;
                for part in parts {
                    all = all.and(part.judge(leaf));
                    if all == Truth::FALSE {
                        break;
                    }
                }
                all
            }
            Self::Or(parts) => {
                let mut any = Truth::FALSE;
                for part in parts {
                    any = any.or(part.judge(leaf));
                    if any == Truth::TRUE {
                        break;
                    }
                }
                any
            }
            Self::Not(inner) => inner.judge(leaf).not(),
            Self::Is(inner, value) => inner.judge(leaf).is(*value),
        }
    }

    /// The condition with other leaves, in their order, up to the first that fails.
    ///
    /// # Errors
    /// The first error of `leaf`.
    pub fn try_map<M, E>(&self, leaf: &mut impl FnMut(&L) -> Result<M, E>) -> Result<Tree<M>, E> {
        let mut all = |parts: &[Self]| -> Result<Vec<Tree<M>>, E> {
            parts.iter().map(|part| part.try_map(leaf)).collect()
        };
        Ok(match self {
            Self::Known(truth) => Tree::Known(*truth),
            Self::And(parts) => Tree::And(all(parts)?),
            Self::Or(parts) => Tree::Or(all(parts)?),
            Self::Leaf(inner) => Tree::Leaf(leaf(inner)?),
            Self::Not(inner) => Tree::Not(Box::new(inner.try_map(leaf)?)),
            Self::Is(inner, value) => Tree::Is(Box::new(inner.try_map(leaf)?), *value),
        })
    }

    /// What is left of a condition when `leaf` says what it knows, or what to put in its place.
    pub(crate) fn reduce<'t, M>(&'t self, leaf: &mut impl FnMut(&'t L) -> Tree<M>) -> Tree<M> {
        match self {
            Self::Known(truth) => Tree::Known(*truth),
            Self::Leaf(inner) => leaf(inner),
            Self::And(parts) => Tree::and(parts.iter().map(|part| part.reduce(leaf))),
            Self::Or(parts) => Tree::or(parts.iter().map(|part| part.reduce(leaf))),
            Self::Not(inner) => inner.reduce(leaf).not(),
            Self::Is(inner, value) => inner.reduce(leaf).is(*value),
        }
    }

    /// All leaves, in their order.
    pub fn leaves(&self) -> Vec<&L> {
        let (mut found, mut rest) = (Vec::new(), vec![self]);
        while let Some(tree) = rest.pop() {
            match tree {
                Self::Known(_) => {}
                Self::Leaf(leaf) => found.push(leaf),
                Self::And(parts) | Self::Or(parts) => rest.extend(parts.iter().rev()),
                Self::Not(inner) | Self::Is(inner, _) => rest.push(inner),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree() -> impl Strategy<Value = Tree<usize>> {
        let truth = prop::sample::select(vec![Truth::TRUE, Truth::FALSE, Truth::NULL]);
        let leaf = prop_oneof![truth.clone().prop_map(Tree::Known), (0..5usize).prop_map(Tree::Leaf)];
        leaf.prop_recursive(4, 30, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::And),
                prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Or),
                inner.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
                (inner, truth.clone()).prop_map(|(tree, value)| Tree::Is(Box::new(tree), value)),
            ]
        })
    }

    /// A reading of the logic that knows single values only: AND is the least, OR the greatest of false < null < true.
    fn model(tree: &Tree<usize>, leaves: &[Option<bool>]) -> Option<bool> {
        let rank = |value: Option<bool>| value.map_or(1, |value| if value { 2 } else { 0 });
        let value = |rank| match rank {
            0 => Some(false),
            1 => None,
            _ => Some(true),
        };
        match tree {
            Tree::Known(Truth::TRUE) => Some(true),
            Tree::Known(Truth::FALSE) => Some(false),
            Tree::Known(_) => None,
            Tree::Leaf(at) => leaves[*at],
            Tree::And(parts) => value(parts.iter().map(|part| rank(model(part, leaves))).min().unwrap_or(2)),
            Tree::Or(parts) => value(parts.iter().map(|part| rank(model(part, leaves))).max().unwrap_or(0)),
            Tree::Not(inner) => model(inner, leaves).map(|value| !value),
            Tree::Is(inner, value) => Some(Truth::known(model(inner, leaves)) == *value),
        }
    }

    /// The same tree, built by the functions that simplify.
    fn rebuilt(tree: Tree<usize>) -> Tree<usize> {
        match tree {
            Tree::And(parts) => Tree::and(parts.into_iter().map(rebuilt)),
            Tree::Or(parts) => Tree::or(parts.into_iter().map(rebuilt)),
            Tree::Not(inner) => rebuilt(*inner).not(),
            Tree::Is(inner, value) => rebuilt(*inner).is(value),
            tree => tree,
        }
    }

    fn leaves() -> impl Strategy<Value = Vec<Option<bool>>> {
        prop::collection::vec(prop::option::of(any::<bool>()), 5)
    }

    /// What PostgreSQL does: parts in their order, and a leaf may raise.
    fn in_order(tree: &Tree<usize>, leaves: &[Result<Option<bool>, ()>]) -> Result<Option<bool>, ()> {
        match tree {
            Tree::Known(truth) => Ok([Some(true), Some(false), None]
                .into_iter()
                .find(|value| Truth::known(*value) == *truth)
                .unwrap()),
            Tree::Leaf(at) => leaves[*at],
            Tree::And(parts) | Tree::Or(parts) => {
                let ends = matches!(tree, Tree::Or(_));
                let mut null = false;
                for part in parts {
                    match in_order(part, leaves)? {
                        Some(value) if value == ends => return Ok(Some(ends)),
                        Some(_) => {}
                        None => null = true,
                    }
                }
                Ok(if null { None } else { Some(!ends) })
            }
            Tree::Not(inner) => Ok(in_order(inner, leaves)?.map(|value| !value)),
            Tree::Is(inner, value) => Ok(Some(Truth::known(in_order(inner, leaves)?) == *value)),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        /// Where an open leaf raises, nothing is said to hold that PostgreSQL would raise at.
        #[test]
        fn nothing_holds_that_raises(tree in tree(), leaves in prop::collection::vec(prop::option::of(prop::option::of(any::<bool>())), 5)) {
            let leaves: Vec<Result<Option<bool>, ()>> = leaves.into_iter().map(|leaf| leaf.ok_or(())).collect();
            let judged = tree.judge(&mut |at| leaves[*at].map_or(Truth::OPEN, Truth::known));
            prop_assert!(!judged.holds() || in_order(&tree, &leaves) == Ok(Some(true)));
        }

        #[test]
        fn known_leaves_give_what_the_model_gives(tree in tree(), leaves in leaves()) {
            let expected = Truth::known(model(&tree, &leaves));
            prop_assert_eq!(tree.judge(&mut |at| Truth::known(leaves[*at])), expected);
            prop_assert_eq!(rebuilt(tree).judge(&mut |at| Truth::known(leaves[*at])), expected);
        }

        /// What is left of a condition is the condition.
        #[test]
        fn what_is_left_gives_the_same(tree in tree(), leaves in leaves(), open in prop::collection::vec(any::<bool>(), 5)) {
            let rest = tree.reduce(&mut |at| if open[*at] { Tree::Leaf(*at) } else { Tree::Known(Truth::known(leaves[*at])) });
            let expected = Truth::known(model(&tree, &leaves));
            prop_assert_eq!(rest.judge(&mut |at| Truth::known(leaves[*at])), expected);
            prop_assert!(rest.leaves().iter().all(|at| open[**at]));
        }

        /// Whatever an open leaf turns out to be, the result was among those that were said to be possible.
        #[test]
        fn what_is_decided_early_stays(tree in tree(), leaves in leaves(), open in prop::collection::vec(any::<bool>(), 5)) {
            let early = tree.judge(&mut |at| if open[*at] { Truth::OPEN } else { Truth::known(leaves[*at]) });
            let late = Truth::known(model(&tree, &leaves));
            prop_assert!(early.may_hold() || late != Truth::TRUE);
            prop_assert!(!early.holds() || late == Truth::TRUE);
            prop_assert!(!early.is_known() || early == late);
        }
    }
}
