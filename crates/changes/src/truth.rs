//! SQL's three truth values, and what is known of one.
//!
//! A condition that is decided in part has several values left: a conjunction of something false and something that
//! is not known yet is false all the same. [`Truth`] is the set of values that are still possible, so that every
//! operation says as much as can be said.

/// The truth values that a condition can still have.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Truth(u8);

impl Truth {
    /// Certainly true.
    pub const TRUE: Self = Self(1);
    /// Certainly false.
    pub const FALSE: Self = Self(2);
    /// Certainly NULL.
    pub const NULL: Self = Self(4);
    /// False or NULL.
    pub const NOT_TRUE: Self = Self(6);
    /// Nothing is known.
    pub const OPEN: Self = Self(7);

    /// A value that is known; `None` is NULL.
    #[must_use]
    pub const fn known(value: Option<bool>) -> Self {
        match value {
            Some(true) => Self::TRUE,
            Some(false) => Self::FALSE,
            None => Self::NULL,
        }
    }

    /// Whether the condition certainly holds.
    #[must_use]
    pub const fn holds(self) -> bool {
        self.0 == Self::TRUE.0
    }

    /// Whether the condition can still turn out to hold. NULL does not hold.
    #[must_use]
    pub const fn may_hold(self) -> bool {
        self.0 & Self::TRUE.0 != 0
    }

    /// Whether only one value is left.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.0.is_power_of_two()
    }

    const fn allows(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// `self AND other`.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let not_false = Self(Self::TRUE.0 | Self::NULL.0);
        let null =
            (self.0 | other.0) & Self::NULL.0 != 0 && self.allows(not_false) && other.allows(not_false);
        let null = if null { Self::NULL.0 } else { 0 };
        Self((self.0 & other.0 & Self::TRUE.0) | ((self.0 | other.0) & Self::FALSE.0) | null)
    }

    /// `self OR other`.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// `NOT self`.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "stands beside `and` and `or`, and is const")]
    pub const fn not(self) -> Self {
        Self((self.0 & Self::NULL.0) | ((self.0 & Self::TRUE.0) << 1) | ((self.0 & Self::FALSE.0) >> 1))
    }

    /// `self IS value`: never NULL.
    #[must_use]
    pub const fn is(self, value: Self) -> Self {
        let holds = if self.allows(value) { Self::TRUE.0 } else { 0 };
        let fails = if self.0 & !value.0 == 0 { 0 } else { Self::FALSE.0 };
        Self(holds | fails)
    }
}

impl std::fmt::Debug for Truth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [(Self::TRUE, "true"), (Self::FALSE, "false"), (Self::NULL, "null")];
        f.debug_set()
            .entries(names.iter().filter(|(value, _)| self.allows(*value)).map(|(_, name)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [Option<bool>; 3] = [Some(true), Some(false), None];

    fn sets() -> impl Iterator<Item = Truth> {
        (1..8).map(Truth)
    }

    fn values(truth: Truth) -> impl Iterator<Item = Option<bool>> {
        VALUES.into_iter().filter(move |value| truth.allows(Truth::known(*value)))
    }

    fn and(a: Option<bool>, b: Option<bool>) -> Option<bool> {
        match (a, b) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        }
    }

    fn or(a: Option<bool>, b: Option<bool>) -> Option<bool> {
        match (a, b) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        }
    }

    fn union(values: impl Iterator<Item = Option<bool>>) -> Truth {
        Truth(values.fold(0, |set, value| set | Truth::known(value).0))
    }

    /// Every operation gives exactly the values that the operation on single values gives.
    #[test]
    fn operations_on_sets_are_those_on_their_values() {
        for a in sets() {
            assert_eq!(a.not(), union(values(a).map(|a| a.map(|a| !a))), "not {a:?}");
            for value in VALUES {
                let expected = union(values(a).map(|a| Some(a == value)));
                assert_eq!(a.is(Truth::known(value)), expected, "{a:?} is {value:?}");
            }
            for b in sets() {
                let pairs = || values(a).flat_map(move |a| values(b).map(move |b| (a, b)));
                assert_eq!(a.and(b), union(pairs().map(|(a, b)| and(a, b))), "{a:?} and {b:?}");
                assert_eq!(a.or(b), union(pairs().map(|(a, b)| or(a, b))), "{a:?} or {b:?}");
            }
        }
    }
}
