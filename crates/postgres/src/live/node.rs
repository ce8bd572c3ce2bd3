//! The rule of a view as PostgreSQL stores it: a tree of nodes, written as text (`pg_rewrite.ev_action`). Read as far as a
//! key needs it: what the query selects from, and which columns of these it shows.

use realtime_pgoutput::Oid;

/// Deepest nesting that is read. Deeper queries are not looked into.
const MAX_DEPTH: usize = 200;

/// An entry in the list of relations of a query that is a table or a view.
const RTE_RELATION: &str = "0";

/// An entry that is a join of others.
const RTE_JOIN: &str = "2";

/// An entry that stands for the groups of a query (PostgreSQL 18).
const RTE_GROUP: &str = "9";

/// A query that shows rows of relations, without others that could double them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    /// What it selects from.
    pub(super) relations: Vec<Oid>,
    /// The columns that it shows as they stand: number in the query, relation, number there.
    pub(super) shown: Vec<Shown>,
}

/// A column that a query shows as it stands in a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) number: i16,
    pub(super) of: Oid,
    pub(super) column: i16,
}

/// Reads the rule of a view. `None` if nothing can be said of its rows: it has sets of others, functions, queries in
/// parentheses, or is written in a way that is not known here.
pub(super) fn query(view: Oid, rule: &str) -> Option<Query> {
    let mut tokens = Tokens { rest: rule };
    let first = tokens.next_token()?;
    let root = tokens.node(first, 0)?;
    let Node::List(actions) = root else { return None };
    let [Node::Object(query)] = &*actions else { return None };
    if query.atom("setOperations")? != "<>" || query.atom("hasTargetSRFs")? != "false" {
        return None;
    }
    let mut relations = Vec::new();
    for entry in query.objects("rtable")? {
        match entry.atom("rtekind")? {
            // Older servers list the view itself, twice.
            RTE_RELATION => {
                let oid: Oid = entry.atom("relid")?.parse().ok()?;
                if oid != view {
                    relations.push(oid);
                }
            }
            RTE_JOIN | RTE_GROUP => {}
            _ => return None,
        }
    }
    let mut shown = Vec::new();
    for entry in query.objects("targetList")? {
        let of: Oid = entry.atom("resorigtbl")?.parse().ok()?;
        if of != 0 && entry.atom("resjunk")? == "false" {
            let (number, column) =
                (entry.atom("resno")?.parse().ok()?, entry.atom("resorigcol")?.parse().ok()?);
            shown.push(Shown { number, of, column });
        }
    }
    Some(Query { relations, shown })
}

enum Node<'a> {
    Atom(&'a str),
    List(Vec<Node<'a>>),
    Object(Object<'a>),
}

/// A node: its fields with what stands behind each.
struct Object<'a>(Vec<(&'a str, Vec<Node<'a>>)>);

impl<'a> Object<'a> {
    fn field(&self, name: &str) -> Option<&[Node<'a>]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, values)| &**values)
    }

    fn atom(&self, name: &str) -> Option<&'a str> {
        match self.field(name)? {
            [Node::Atom(text)] => Some(text),
            // Whole nodes are of no interest, but that they are there.
            _ => Some(""),
        }
    }

    fn objects(&self, name: &str) -> Option<Vec<&Self>> {
        match self.field(name)? {
            [Node::List(items)] => items
                .iter()
                .map(|item| match item {
                    Node::Object(object) => Some(object),
                    _ => None,
                })
                .collect(),
            _ => None,
        }
    }
}

/// Reads the text: words, and brackets that are not escaped.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn next_token(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start_matches([' ', '\n', '\t']);
        let first = self.rest.chars().next()?;
        let mut end = self.rest.len();
        if matches!(first, '(' | ')' | '{' | '}') {
            end = 1;
        } else {
            let mut escaped = false;
            for (at, c) in self.rest.char_indices() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    ' ' | '\n' | '\t' | '(' | ')' | '{' | '}' => {
                        end = at;
                        break;
                    }
                    _ => {}
                }
            }
        }
        let (token, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        Some(token)
    }

    /// The node that begins with a token.
    fn node(&mut self, token: &'a str, depth: usize) -> Option<Node<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        match token {
            "(" => {
                let mut items = Vec::new();
                loop {
                    match self.next_token()? {
                        ")" => return Some(Node::List(items)),
                        token => items.push(self.node(token, depth + 1)?),
                    }
                }
            }
            "{" => {
                // Its name.
                self.next_token()?;
                let mut fields: Vec<(&str, Vec<Node<'a>>)> = Vec::new();
                loop {
                    match self.next_token()? {
                        "}" => return Some(Node::Object(Object(fields))),
                        token => match (token.strip_prefix(':'), fields.last_mut()) {
                            (Some(name), _) => fields.push((name, Vec::new())),
                            (None, Some((_, values))) => values.push(self.node(token, depth + 1)?),
                            (None, None) => return None,
                        },
                    }
                }
            }
            ")" | "}" => None,
            atom => Some(Node::Atom(atom)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#"({QUERY :commandType 1 :hasTargetSRFs false :rtable ({RANGETBLENTRY :alias {ALIAS :aliasname old :colnames <>} :rtekind 0 :relid 7} {RANGETBLENTRY :eref {ALIAS :aliasname a\ b :colnames ("x\}" "y")} :rtekind 0 :relid 5} {RANGETBLENTRY :rtekind 2 :jointype 0}) :jointree {FROMEXPR :fromlist <> :quals {SUBLINK :subselect {QUERY :targetList ({TARGETENTRY :resno 9 :resorigtbl 5 :resorigcol 9 :resjunk false})}}} :targetList ({TARGETENTRY :expr {CONST :constvalue 4 [ 1 0 0 0 ]} :resno 1 :resname one :resorigtbl 0 :resorigcol 0 :resjunk false} {TARGETENTRY :expr {VAR :varno 3} :resno 2 :resname \{id :resorigtbl 5 :resorigcol 1 :resjunk false} {TARGETENTRY :expr {VAR :varno 3} :resno 3 :resname <> :resorigtbl 5 :resorigcol 2 :resjunk true}) :setOperations <>})"#;

    #[test]
    fn rules_are_read() {
        let shown = vec![Shown { number: 2, of: 5, column: 1 }];
        assert_eq!(query(7, RULE), Some(Query { relations: vec![5], shown }));
    }

    #[test]
    fn nothing_is_said_of_queries_that_can_double_rows() {
        for (from, to) in [
            (":setOperations <>", ":setOperations {SETOPERATIONSTMT :op 0}"),
            (":hasTargetSRFs false", ":hasTargetSRFs true"),
            (":rtekind 2", ":rtekind 3"),
            (":resno 2", ":resno x"),
            ("})", "}"),
            ("({QUERY", "({QUERY :x) "),
        ] {
            assert_eq!(query(7, &RULE.replace(from, to)), None, "{from}");
        }
        assert_eq!(query(7, &"(".repeat(100_000)), None);
    }
}
