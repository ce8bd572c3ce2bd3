//! Fuzz targets as tests.
//!
//! The targets in `crates/*/fuzz` are crates that only `scripts/fuzz` builds, with `libfuzzer-sys`. Tests take the same
//! files with this crate in its place, so that a target that does not compile any more is noticed, and try them with their
//! examples and with what is a little like these. `scripts/fuzz` looks much further.
#![allow(clippy::panic, reason = "for tests")]

use std::{fs, path::Path};

/// Inputs that are made of the examples of a target, for each run.
const INPUTS: usize = 2_000;

/// Longest made input, in bytes.
const LONGEST: usize = 4_096;

/// Takes the place of `libfuzzer_sys::fuzz_target`: the target as a function.
#[macro_export]
macro_rules! fuzz_target {
    (|$data:ident: &[u8]| $body:block) => {
        /// Tries one input.
        pub(crate) fn target($data: &[u8]) $body
    };
}

/// A test for each target, which stands in a module of its name.
#[expect(clippy::crate_in_macro_def, reason = "the targets are those of the test")]
#[macro_export]
macro_rules! targets {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/", stringify!($name));
                $crate::try_all(::std::path::Path::new(seeds), crate::$name::target);
            }
        )*
    };
}

/// Tries a target with the examples in a folder, which need not be there, and with inputs that are made of them; the same
/// ones in each run.
///
/// # Panics
/// If the target does.
pub fn try_all(seeds: &Path, target: impl Fn(&[u8])) {
    let mut examples: Vec<Vec<u8>> = fs::read_dir(seeds)
        .map(|entries| entries.flatten().filter_map(|entry| fs::read(entry.path()).ok()).collect())
        .unwrap_or_default();
    // The order of a folder is that of the file system.
    examples.sort();
    examples.push(Vec::new());
    examples.iter().for_each(|example| target(example));
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..INPUTS {
        target(&random.input(&examples));
    }
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    /// A number below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap_or_default() % end.max(1)
    }

    /// The beginning of an example and the end of another, with a few bytes changed.
    fn input(&mut self, examples: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.part(examples, |example, at| example.get(..at));
        input.extend(self.part(examples, |example, at| example.get(at..)));
        for _ in 0..self.below(4) {
            let (at, byte) = (self.below(input.len()), u8::try_from(self.below(256)).unwrap_or_default());
            match input.get_mut(at) {
                Some(changed) => *changed = byte,
                None => input.push(byte),
            }
        }
        input.truncate(LONGEST);
        input
    }

    fn part(&mut self, examples: &[Vec<u8>], cut: impl Fn(&[u8], usize) -> Option<&[u8]>) -> Vec<u8> {
        let Some(example) = examples.get(self.below(examples.len())) else { return Vec::new() };
        let at = self.below(example.len() + 1);
        cut(example, at).unwrap_or_default().to_vec()
    }
}
