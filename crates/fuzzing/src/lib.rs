//! Fuzz targets as tests.
//!
//! The targets in `crates/*/fuzz` are crates that only `scripts/fuzz` builds, with `libfuzzer-sys`. Tests take the same
//! files with this crate in its place, so that a target that does not compile any more is noticed, and try them with their
//! examples and with what is a little like these. `scripts/fuzz` looks much further.
#![allow(clippy::panic, reason = "for tests")]

use std::{fs, path::Path};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

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
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..INPUTS {
        target(&input(&mut rng, &examples));
    }
}

/// The beginning of an example and the end of another, with a few bytes changed.
fn input(rng: &mut StdRng, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut cut = || {
        let example = examples.choose(rng).map_or(&[][..], Vec::as_slice);
        example.split_at(rng.random_range(0..=example.len()))
    };
    let mut input = [cut().0, cut().1].concat();
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..=input.len());
        match input.get_mut(at) {
            Some(byte) => *byte = rng.random(),
            None => input.push(rng.random()),
        }
    }
    input.truncate(LONGEST);
    input
}
