//! What is broadcast at all (legacy 2.4).

use crate::Event;

/// What may be broadcast. Without a configuration file: everything, on every level of topics.
#[derive(Debug, Clone, Default)]
pub struct Restrictions(Option<Vec<Entry>>);

/// A relation of the configuration file and the events that it allows.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// One to three parts: schema, table, column. Other numbers match nothing.
    parts: Vec<Box<str>>,
    events: [bool; Event::ALL.len()],
}

impl Entry {
    pub(crate) fn new(relation: &str, events: &[String]) -> Self {
        Self {
            parts: relation.split(':').map(Into::into).collect(),
            events: Event::ALL.map(|event| events.iter().any(|name| name == event.as_str())),
        }
    }

    fn allows<const N: usize>(&self, names: [&str; N], event: Event) -> bool {
        let part = |(part, name): (&str, &str)| part == "*" || part == name;
        let mut parts = self.parts.iter().map(|part| &**part).zip(names);
        self.parts.len() == N && self.events[event as usize] && parts.all(part)
    }
}

impl Restrictions {
    /// Only what one of the entries allows.
    pub(crate) fn to(entries: Vec<Entry>) -> Self {
        Self(Some(entries))
    }

    /// Whether anything is broadcast.
    #[must_use]
    pub fn allow_nothing(&self) -> bool {
        self.0.as_ref().is_some_and(Vec::is_empty)
    }

    /// `realtime:*`: only the relation `*` itself allows it.
    pub(crate) fn everything(&self, event: Event) -> bool {
        let is_star = |entry: &Entry| matches!(&entry.parts[..], [part] if **part == *"*");
        let Some(entries) = &self.0 else { return true };
        entries.iter().any(|entry| is_star(entry) && entry.events[event as usize])
    }

    /// `realtime:<schema>`.
    pub(crate) fn schema(&self, schema: &str, event: Event) -> bool {
        self.any([schema], event)
    }

    /// `realtime:<schema>:<table>`.
    pub(crate) fn table(&self, schema: &str, table: &str, event: Event) -> bool {
        self.any([schema, table], event)
    }

    /// `realtime:<schema>:<table>:<column>=eq.…`.
    pub(crate) fn column(&self, schema: &str, table: &str, column: &str, event: Event) -> bool {
        self.any([schema, table, column], event)
    }

    fn any<const N: usize>(&self, names: [&str; N], event: Event) -> bool {
        self.0.as_ref().is_none_or(|entries| entries.iter().any(|entry| entry.allows(names, event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which levels of `public.users` an entry for inserts opens: schema, everything, table, column `id`.
    fn levels(relation: &str) -> [bool; 4] {
        let restrictions = Restrictions::to(vec![Entry::new(relation, &["INSERT".to_owned()])]);
        let of = |event| {
            [
                restrictions.schema("public", event),
                restrictions.everything(event),
                restrictions.table("public", "users", event),
                restrictions.column("public", "users", "id", event),
            ]
        };
        assert_eq!(of(Event::Update), [false; 4]);
        of(Event::Insert)
    }

    /// legacy 27, 28
    #[test]
    fn levels_are_independent() {
        assert_eq!(levels("public"), [true, false, false, false]);
        assert_eq!(levels("auth"), [false; 4]);
        assert_eq!(levels("*"), [true, true, false, false]);
        for relation in ["*:*", "public:*", "*:users", "public:users"] {
            assert_eq!(levels(relation), [false, false, true, false], "{relation}");
        }
        for relation in ["*:*:*", "public:users:id", "*:users:*"] {
            assert_eq!(levels(relation), [false, false, false, true], "{relation}");
        }
        for relation in ["", "public:orders", "public:users:name", "public:users.id=eq.1", "*:*:*:*"] {
            assert_eq!(levels(relation), [false; 4], "{relation}");
        }
    }

    #[test]
    fn without_a_file_everything_passes() {
        let all = Restrictions::default();
        assert!(all.everything(Event::Truncate) && all.column("s", "t", "c", Event::Delete));
        assert!(!all.allow_nothing() && Restrictions::to(vec![]).allow_nothing());
    }
}
