//! Names that are nearly those of settings.

use super::{ignored, setting::Kind, table};

/// Names that other programs use for the same thing.
const ALIASES: &[(&str, &str)] = &[
    ("DB_DATABASE", "DB_NAME"),
    ("DB_PASS", "DB_PASSWORD"),
    ("DB_USERNAME", "DB_USER"),
    ("JWT_SECRET", "API_JWT_SECRET"),
    ("POSTGRES_HOST", "DB_HOST"),
    ("POSTGRES_PASSWORD", "DB_PASSWORD"),
    ("REALTIME_PORT", "PORT"),
];

/// Shorter names are near to too many others.
const SHORTEST: usize = 6;

/// A variable that is no setting, but almost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// The variable.
    pub name: String,
    /// The setting that was probably meant. It is not set.
    pub meant: &'static str,
}

/// Which of these variables are probably meant to be settings. A setting that is set was not missed.
pub fn misses(names: impl Iterator<Item = String>) -> Vec<NearMiss> {
    let names: Vec<String> = names.collect();
    let is_set = |name: &str| {
        let file = format!("{name}_FILE");
        names.iter().any(|set| *set == name || *set == file)
    };
    let mut misses: Vec<NearMiss> = names
        .iter()
        .filter(|name| !is_known(name))
        .filter_map(|name| Some(NearMiss { name: name.clone(), meant: meant(name)? }))
        .filter(|miss| !is_set(miss.meant))
        .collect();
    misses.sort_by(|a, b| a.name.cmp(&b.name));
    misses
}

fn is_known(name: &str) -> bool {
    let secret = |name: &str| table::find(name).is_some_and(|(_, setting)| setting.kind == Kind::Secret);
    table::find(name).is_some()
        || name.strip_suffix("_FILE").is_some_and(secret)
        || ignored::IGNORED.iter().any(|(known, _)| *known == name)
}

fn meant(name: &str) -> Option<&'static str> {
    if let Some((_, meant)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Some(meant);
    }
    if name.len() < SHORTEST {
        return None;
    }
    let near = table::all().map(|(_, setting)| (distance(name, setting.name), setting.name)).min();
    // One slip, or two neighbours changed over; more is another word.
    near.filter(|(distance, near)| *distance <= if near.len() < 8 { 1 } else { 2 }).map(|(_, near)| near)
}

/// The known word that was probably meant.
pub(super) fn nearest(word: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let scored = known.map(|candidate| (distance(word, candidate), candidate));
    scored.min().filter(|(distance, _)| *distance <= (word.len() / 3).max(2)).map(|(_, candidate)| candidate)
}

/// Insertions, deletions and substitutions between two words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let up = *slot;
            left = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            diagonal = up;
            *slot = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str]) -> Vec<(String, &'static str)> {
        let names = names.iter().map(|name| (*name).to_owned());
        misses(names).into_iter().map(|miss| (miss.name, miss.meant)).collect()
    }

    #[test]
    fn slips_are_found_and_other_variables_are_not() {
        assert_eq!(found(&["DB_PASSWROD"]), [("DB_PASSWROD".to_owned(), "DB_PASSWORD")]);
        assert_eq!(found(&["SLOT_DURBLE", "DB_PASS"]).len(), 2);
        assert_eq!(found(&["DB_PASSWROD", "DB_PASSWORD"]), []);
        assert_eq!(found(&["DB_PASS", "DB_PASSWORD_FILE"]), []);
        assert_eq!(
            found(&[
                "PATH",
                "HOME",
                "POST",
                "PORTS",
                "LANG",
                "NUM_ACCEPTORS",
                "DB_PASSWORD_FILE",
                "PGHOST",
                "SHELL"
            ]),
            []
        );
    }
}
