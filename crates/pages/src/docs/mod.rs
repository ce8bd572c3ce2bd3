//! The documentation that a server shows: the Markdown of the repository, the same files as in `docs`.
//!
//! A page is made when somebody asks for it, which takes about a millisecond. Nothing is kept but what the search reads.

mod index;
mod library;
mod render;
mod search;

pub use index::{Entry, contents};
pub use library::{Document, image};
pub use render::{Rendered, render};
pub use search::{Hit, MAX_QUERY, search};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{
        library::{INDEX, PAGES, all},
        *,
    };

    #[test]
    fn every_page_has_an_address_of_its_own() {
        let addresses: BTreeSet<&str> = all().map(Document::address).collect();
        assert_eq!(addresses.len(), PAGES.len());
        for document in all() {
            assert_eq!(Document::at(document.address()), Some(document));
        }
        assert_eq!(Document::at("quick-start.md"), Document::at("quick-start"));
        assert_eq!(Document::at("").unwrap().path, INDEX);
        assert!(Document::at("../Cargo").is_none() && Document::at("nothing").is_none());
        assert!(!addresses.contains("search"), "it is the search's");
    }

    #[test]
    fn every_link_between_pages_leads_somewhere() {
        let ids: BTreeSet<String> = all()
            .flat_map(|document| {
                let html = render(document).html;
                let href = document.href();
                let ids: Vec<String> = html
                    .split(" id=\"")
                    .skip(1)
                    .map(|rest| format!("{href}#{}", rest.split('"').next().unwrap()))
                    .collect();
                ids.into_iter().chain([href])
            })
            .collect();
        for document in all() {
            let Rendered { title, html } = render(document);
            assert!(!title.is_empty(), "{}", document.path);
            for link in html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
                if link.starts_with("/docs") {
                    assert!(ids.contains(link), "{}: {link}", document.path);
                } else if let Some(anchor) = link.strip_prefix('#') {
                    assert!(
                        ids.contains(&format!("{}#{anchor}", document.href())),
                        "{}: {link}",
                        document.path
                    );
                } else {
                    assert!(link.contains("://") || link.starts_with('/'), "{}: {link}", document.path);
                }
            }
            for source in html.split(" src=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
                let name = source.strip_prefix("/docs/images/");
                assert!(name.is_some_and(|name| image(name).is_some()), "{}: {source}", document.path);
            }
        }
    }

    #[test]
    fn the_index_names_every_page_of_the_folder() {
        let named: BTreeSet<String> =
            contents().into_iter().flat_map(|(_, entries)| entries).map(|entry| entry.href).collect();
        for document in all().filter(|document| document.path.starts_with("docs/") && document.path != INDEX)
        {
            assert!(named.contains(&document.href()), "{}", document.path);
        }
    }
}
