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
    /// Nothing is known, but that it does not raise.
    pub const ANY: Self = Self(7);
    /// Nothing is known, not even whether it raises.
    pub const OPEN: Self = Self(15);
    /// It raises.
    const RAISES: Self = Self(8);

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
        self.0.is_power_of_two() && self.0 != Self::RAISES.0
    }

    const fn allows(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The value of `other` if a condition holds, else none.
    const fn only_if(self, holds: bool) -> u8 {
        if holds { self.0 } else { 0 }
    }

    /// `self AND other`, evaluated in this order: what is false keeps what stands behind it from raising.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let goes_on = self.allows(Self(Self::TRUE.0 | Self::NULL.0));
        let not_false = Self(Self::TRUE.0 | Self::NULL.0);
        let null = (self.allows(Self::NULL) && other.allows(not_false))
            || (self.allows(Self::TRUE) && other.allows(Self::NULL));
        Self(
            Self::TRUE.only_if(self.allows(Self::TRUE) && other.allows(Self::TRUE))
                | Self::FALSE.only_if(self.allows(Self::FALSE) || (goes_on && other.allows(Self::FALSE)))
                | Self::NULL.only_if(null)
                | Self::RAISES.only_if(self.allows(Self::RAISES) || (goes_on && other.allows(Self::RAISES))),
        )
    }

    /// `self OR other`, evaluated in this order: what is true keeps what stands behind it from raising.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        self.not().and(other.not()).not()
    }

    /// `NOT self`.
    #[must_use]
    pub const fn not(self) -> Self {
        let kept = self.0 & (Self::NULL.0 | Self::RAISES.0);
        Self(
            kept | Self::TRUE.only_if(self.allows(Self::FALSE))
                | Self::FALSE.only_if(self.allows(Self::TRUE)),
        )
    }

    /// `self IS value`: never NULL.
    #[must_use]
    pub const fn is(self, value: Self) -> Self {
        let others = Self(self.0 & !value.0 & !Self::RAISES.0);
        Self(
            Self::TRUE.only_if(self.allows(value))
                | Self::FALSE.only_if(others.0 != 0)
                | (self.0 & Self::RAISES.0),
        )
    }
}

impl std::fmt::Debug for Truth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names =
            [(Self::TRUE, "true"), (Self::FALSE, "false"), (Self::NULL, "null"), (Self::RAISES, "raises")];
        f.debug_set()
            .entries(names.iter().filter(|(value, _)| self.allows(*value)).map(|(_, name)| name))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an evaluation gives; `Err` where it raises.
    type Given = Result<Option<bool>, ()>;

    const VALUES: [Given; 4] = [Ok(Some(true)), Ok(Some(false)), Ok(None), Err(())];

    fn truth(given: Given) -> Truth {
        given.map_or(Truth::RAISES, Truth::known)
    }

    fn sets() -> impl Iterator<Item = Truth> {
        (1..16).map(Truth)
    }

    fn values(set: Truth) -> impl Iterator<Item = Given> {
        VALUES.into_iter().filter(move |value| set.allows(truth(*value)))
    }

    fn and(a: Given, b: Given) -> Given {
        match (a?, b) {
            (Some(false), _) => Ok(Some(false)),
            (Some(true), b) => b,
            (None, b) => Ok(b?.filter(|b| !b)),
        }
    }

    fn or(a: Given, b: Given) -> Given {
        match (a?, b) {
            (Some(true), _) => Ok(Some(true)),
            (Some(false), b) => b,
            (None, b) => Ok(b?.filter(|b| *b)),
        }
    }

    fn union(values: impl Iterator<Item = Given>) -> Truth {
        Truth(values.fold(0, |set, value| set | truth(value).0))
    }

    /// Every operation gives exactly the values that the operation on single values gives.
    #[test]
    fn operations_on_sets_are_those_on_their_values() {
        for a in sets() {
            assert_eq!(a.not(), union(values(a).map(|a| Ok(a?.map(|a| !a)))), "not {a:?}");
            for value in [Some(true), Some(false), None] {
                let expected = union(values(a).map(|a| Ok(Some(a? == value))));
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
