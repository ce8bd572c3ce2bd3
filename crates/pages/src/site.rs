//! The pages as a node serves them.

use std::fmt::Write as _;

use crate::{
    docs::{self, Document},
    escape::escape,
    files::{TAG, etag},
};

/// What browsers let the pages do: run our own files, and talk to whatever host a person names in the Inspector.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; connect-src 'self' http: https: ws: wss:; worker-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// What they let the documentation do: run our own files, and search here.
pub const DOCS_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What the foot of a page says about the node that serves it.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Version of the server.
    pub version: &'a str,
    /// Short id of the node.
    pub node: &'a str,
    /// Where the node is.
    pub region: Option<&'a str>,
}

/// A finished page.
#[derive(Debug, Clone)]
pub struct Page {
    /// HTML.
    pub html: String,
    /// Entity tag, with quotes.
    pub etag: String,
}

/// The pages of a node.
#[derive(Debug, Clone)]
pub struct Site {
    /// `/`.
    pub inspector: Page,
    /// `/status`.
    pub status: Page,
    /// `/swaggerui`.
    pub swagger: Page,
    /// What the pages of the documentation have in common.
    docs: String,
}

impl Site {
    /// Makes the pages of a node.
    #[must_use]
    pub fn new(about: About<'_>) -> Self {
        let page = |template, name| {
            let html = filled(template, name, about);
            Page { etag: etag(html.as_bytes()), html }
        };
        Self {
            inspector: page(include_str!("../assets/inspector.html"), "inspector"),
            status: page(include_str!("../assets/status.html"), "status"),
            swagger: page(include_str!("../assets/swagger.html"), "swagger"),
            docs: filled(include_str!("../assets/docs.html"), "docs", about),
        }
    }

    /// A page of the documentation, by its address below `/docs`.
    #[must_use]
    pub fn document(&self, address: &str) -> Option<Page> {
        let document = Document::at(address)?;
        let rendered = docs::render(document);
        Some(self.docs_page(&rendered.title, "", &document.href(), &rendered.html))
    }

    /// What the search of the documentation finds.
    #[must_use]
    pub fn search(&self, query: &str) -> Page {
        let query: String = query.trim().chars().take(docs::MAX_QUERY).collect();
        let (hits, all) = docs::search(&query);
        let mut content = String::from("<h1>Search</h1>");
        if query.is_empty() {
            content.push_str("<p>Write one or more words.</p>");
        } else {
            let sections = if all == 1 { "section has" } else { "sections have" };
            let _ = write!(content, "<p role=\"status\">{all} {sections} all words.");
            if all > hits.len() {
                let _ = write!(content, " The best {} are shown.", hits.len());
            }
            content.push_str("</p><ul class=\"hits\">");
            for hit in hits {
                let place =
                    if hit.page == hit.heading { hit.page } else { format!("{}: {}", hit.page, hit.heading) };
                let (href, place) = (escape(&hit.href), escape(&place));
                let _ = write!(content, "<li><a href=\"{href}\">{place}</a><p>{}</p></li>", hit.excerpt);
            }
            content.push_str("</ul>");
        }
        self.docs_page("Search", &query, "", &content)
    }

    /// `here`: the address of the page, which the list of pages marks.
    fn docs_page(&self, title: &str, query: &str, here: &str, content: &str) -> Page {
        let mut contents = String::new();
        for (group, entries) in docs::contents() {
            let _ = write!(contents, "<div><h2>{}</h2><ul>", escape(&group));
            for docs::Entry { name, href } in entries {
                let current = if href == here { " aria-current=\"page\"" } else { "" };
                let _ =
                    write!(contents, "<li><a href=\"{}\"{current}>{}</a></li>", escape(&href), escape(&name));
            }
            contents.push_str("</ul></div>");
        }
        // Once each, and the content last: it may have such words itself.
        let html = self
            .docs
            .replacen("{{title}}", &escape(title), 1)
            .replacen("{{contents}}", &contents, 1)
            .replacen("{{query}}", &escape(query).replace('{', "&#123;"), 1)
            .replacen("{{content}}", content, 1);
        Page { etag: etag(html.as_bytes()), html }
    }
}

/// A template with everything that all pages have in common.
fn filled(template: &str, name: &str, about: About<'_>) -> String {
    let link = format!("data-page=\"{name}\"");
    template
        .replace("{{header}}", include_str!("../assets/parts/header.html"))
        .replace("{{footer}}", include_str!("../assets/parts/footer.html"))
        .replace(&link, &format!("{link} aria-current=\"page\""))
        .replace("{{assets}}", &format!("/assets/{}", *TAG))
        .replace("{{version}}", &escape(about.version))
        .replace("{{node}}", &escape(about.node))
        .replace("{{region}}", &escape(about.region.unwrap_or("no region")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::find;

    fn site() -> Site {
        Site::new(About { version: "1.2.3", node: "ab12", region: Some("<eu>") })
    }

    fn pages(site: &Site) -> Vec<Page> {
        vec![
            site.inspector.clone(),
            site.status.clone(),
            site.document("quick-start").unwrap(),
            site.search("slot lag"),
        ]
    }

    #[test]
    fn pages_are_filled_in() {
        let site = site();
        for page in pages(&site) {
            assert!(!page.html.contains("{{"), "{}", page.html);
            assert!(page.html.contains("1.2.3") && page.html.contains("ab12"));
            assert!(page.html.contains("&lt;eu&gt;") && !page.html.contains("<eu>"));
            assert!(page.html.matches("aria-current").count() <= 2);
            assert!(page.html.contains("href=\"/docs\" data-page=\"docs\""));
        }
        assert!(site.inspector.html.contains("<title>Inspector - Realtime</title>"));
        assert!(site.status.html.contains("Realtime Cluster Health"));
    }

    #[test]
    fn what_pages_refer_to_exists_and_nothing_is_inline() {
        let site = site();
        let prefix = format!("/assets/{}/", *TAG);
        for page in pages(&site) {
            let referred: Vec<&str> = page.html.split(&prefix).skip(1).collect();
            assert!(referred.len() >= 4);
            for rest in referred {
                let path = rest.split('"').next().unwrap();
                assert!(find(path).is_some(), "{path}");
            }
            assert!(!page.html.contains("<style") && !page.html.contains("style=\""));
            assert!(page.html.split("<script").skip(1).all(|script| script.contains("src=\"")));
        }
    }

    #[test]
    fn pages_of_the_documentation_show_where_one_is() {
        let site = site();
        let page = site.document("live-rows").unwrap().html;
        assert!(page.contains("<title>Live rows - Realtime documentation</title>"));
        assert!(page.contains("<a href=\"/docs/live-rows\" aria-current=\"page\">Live rows</a>"));
        assert!(site.document("nothing").is_none());
        let found = site.search("\"><script>alert(1)</script>").html;
        assert!(!found.contains("<script>alert") && found.contains("0 sections have all words"));
        let found = site.search("{{content}}").html;
        assert!(found.contains("value=\"&#123;&#123;content}}\"") && found.matches("<h1>").count() == 1);
    }
}
