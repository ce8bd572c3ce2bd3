//! What the index of the documentation names.

use pulldown_cmark::{Event, HeadingLevel, Tag, TagEnd};

use super::{
    library::{Document, INDEX},
    render,
};

/// A page in the list of all pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What the index calls it.
    pub name: String,
    /// Its address.
    pub href: String,
}

/// The pages that the index names, in groups with their headings.
#[must_use]
pub fn contents() -> Vec<(String, Vec<Entry>)> {
    let Some(document) = Document::of(INDEX) else { return Vec::new() };
    let events: Vec<Event<'_>> = render::events(document.text).collect();
    let mut groups: Vec<(String, Vec<Entry>)> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let rest = events.get(at + 1..).unwrap_or_default();
        let until = |end: fn(&Event<'_>) -> bool| {
            let length = rest.iter().position(end).unwrap_or_default();
            render::text_of(rest.get(..length).unwrap_or_default())
        };
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => {
                let name = until(|event| matches!(event, Event::End(TagEnd::Heading(_))));
                groups.push((name, Vec::new()));
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                // Places within a page are not named, nor other sites.
                let href = render::href(document, dest_url).filter(|href| href.starts_with("/docs"));
                let href = href.filter(|href| !href.contains('#'));
                let name = until(|event| matches!(event, Event::End(TagEnd::Link)));
                if let (Some(href), Some((_, entries))) = (href, groups.last_mut()) {
                    entries.push(Entry { name, href });
                }
            }
            _ => {}
        }
    }
    groups
}
