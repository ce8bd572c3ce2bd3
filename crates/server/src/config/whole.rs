//! Whole numbers, and how their ranges are named.

use std::str::FromStr;

/// A whole number that a setting may be.
pub trait Whole: FromStr {
    /// Its range, as messages name it.
    const RANGE: &'static str;
}

impl Whole for u8 {
    const RANGE: &'static str = "from 0 to 255";
}

impl Whole for u16 {
    const RANGE: &'static str = "from 0 to 65535";
}

impl Whole for u32 {
    const RANGE: &'static str = "from 0 to 4294967295";
}

impl Whole for u64 {
    const RANGE: &'static str = "of at least 0";
}

impl Whole for usize {
    const RANGE: &'static str = "of at least 0";
}

impl Whole for i32 {
    const RANGE: &'static str = "from -2147483648 to 2147483647";
}
